"""Workers in this process, in place of those on devices: what goes to them and back is pickled all the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from bandlens.app.study.workers import Workers
from bandlens.engine.schedule import Computer, answer

TWO = Workers(("cpu", "cpu"))
"""The option of a run on two workers."""


class LocalWorker:
    """A worker that answers as soon as it is asked."""

    def __init__(self, computer: Computer) -> None:
        self.content = pickle.dumps(computer)

    def restart(self) -> None:
        self.computer = pickle.loads(self.content)

    def submit(self, request: Any) -> Future[Any]:
        future: Future[Any] = Future()
        reply = answer(self.computer, pickle.loads(pickle.dumps(request)))
        future.set_result(pickle.loads(pickle.dumps(reply)))
        return future


@contextmanager
def local_workers(
    environments: Sequence[Mapping[str, str]], computer: Computer
) -> Iterator[tuple[list[LocalWorker], Callable[[], None]]]:
    yield [LocalWorker(computer) for _ in environments], lambda: None


def work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs with `--devices` have workers in this process."""
    monkeypatch.setattr("bandlens.app.study.workers.device_workers", local_workers)
