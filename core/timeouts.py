"""Calls into a library that may not come back from them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar

from .errors import EngineError

T = TypeVar("T")

_stuck_threads: list[threading.Thread] = []


def has_stuck_call() -> bool:
    """Whether a library is still in a call that was given up: it cannot be unloaded."""
    return any(thread.is_alive() for thread in _stuck_threads)


class TimedCalls:
    """Makes calls in a thread of its own, one after another; one that does not come back in time is given up.

    It is one thread, which lives as long as the process: Ray's processes die with the thread that started them.

    Args:
        seconds: the time in which a call has to come back.
        message: what the EngineError says where it does not; `{seconds}` stands for how long that was.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message = seconds, message
        self._start()

    def __call__(self, call: Callable[[], Any], seconds: float | None = None) -> Any:
        """Give what the call gives, or raise what it raises; EngineError where it takes more `seconds`."""
        seconds, answer = self._seconds if seconds is None else seconds, Future[Any]()
        self._requests.put((call, answer))
        if wait([answer], seconds).done:
            return answer.result()
        _stuck_threads.append(self._thread)
        self._requests.put(None)  # ends the thread if the call comes back after all
        self._start()
        raise EngineError(self._message.format(seconds=seconds))

    def _start(self) -> None:
        self._requests: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_answer, args=[self._requests], name="calls", daemon=True)
        self._thread.start()


def _answer(requests: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while request := requests.get():
        call, answer = request
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the thread that asked raises it
            answer.set_exception(error)


class Watchdog:
    """Ends the process with a line where a step of a job shows no sign of life for too long.

    A thread that waits for a driver which hangs can neither be interrupted nor taken out of the process.
    """

    def __init__(self, seconds: float, message: str) -> None:
        """`message` says what hangs; `{seconds}` stands for how long."""
        self._seconds, self._message = seconds, message
        self._latest: float | None = None
        """The time of the latest sign, while a step is under way."""

    def sign(self) -> None:
        """Show that the step goes on."""
        self._latest = time.monotonic()

    def watch(self, steps: Generator[T]) -> Iterator[T]:
        """Yield what `steps` does, and watch its steps alone, not what the caller does between two of them."""
        end = threading.Event()
        threading.Thread(target=self._look, args=[end], name="watchdog", daemon=True).start()
        try:
            with closing(steps):
                self.sign()
                for step in steps:
                    self._latest = None
                    yield step
                    self.sign()
        finally:
            end.set()

    def _look(self, end: threading.Event) -> None:
        while not end.wait(self._seconds / 10):
            latest = self._latest
            if latest is not None and time.monotonic() - latest > self._seconds:
                os.write(2, f"bandlens: {self._message.format(seconds=self._seconds)}\n".encode())
                os._exit(1)
