"""Ranges are committed in their order, in a thread, and nothing is after one that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bandlens.analysis.database.store import Store
from bandlens.app.study.result_writer import ResultWriter
from bandlens.core.errors import StoreError
from bandlens.core.records import Cell, Failed


def failure(number: int) -> Failed:
    return Failed(cast(Cell, number), "it failed")


def writer_with(commit: Callable[..., None]) -> ResultWriter:
    return ResultWriter([], cast(Store, SimpleNamespace(commit=commit)), str, {})


def test_ranges_are_committed_in_their_order_while_the_next_is_computed() -> None:
    computed, committed = threading.Event(), []

    def commit(outcomes: Any, sessions: Any) -> None:
        assert computed.wait(30), "the caller went on meanwhile"
        committed.append((outcomes, sessions))

    with writer_with(commit) as writer:
        writer.commit([failure(0)])
        assert committed == []
        computed.set()
        for number in range(1, 6):
            writer.commit([failure(number)])
    assert committed == [([failure(number)], {}) for number in range(6)]
    assert writer.failed == [failure(number) for number in range(6)]


@pytest.mark.parametrize("ranges", [1, 3])
def test_after_a_commit_that_fails_nothing_is_committed(ranges: int) -> None:
    attempts = []

    def commit(outcomes: Any, sessions: Any) -> None:
        attempts.append(outcomes)
        raise StoreError("results.duckdb: no space left on the device")

    def commit_all() -> None:
        with writer_with(commit) as writer:
            for number in range(ranges):
                writer.commit([failure(number)])

    with pytest.raises(StoreError, match="no space left"):
        commit_all()
    assert attempts == [[failure(0)]]
