"""Processors are counted as a container allows them; threads take items a few ahead, and give results in order."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from bandlens.core.jobs import end_with_parent, in_parallel, processors

CORES = 64


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of many processors, in a container that says nothing of them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)
    monkeypatch.setattr("bandlens.core.jobs.CGROUP", tmp_path)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, CORES),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_quota_of_time_counts_as_well_as_the_processors(tmp_path: Path, files: dict[str, str], count: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors() == count


def test_results_come_in_order_of_items_that_are_taken_a_few_ahead() -> None:
    counts = list[int]()

    def items() -> Iterator[int]:
        for item in range(1000):
            counts.append(item)
            yield item

    results = in_parallel(lambda item: item**2, items(), 2)
    assert list(islice(results, 20)) == [item**2 for item in range(20)]
    assert len(counts) < 40
    results.close()
    assert list(in_parallel(str, range(100), 3)) == list(map(str, range(100)))


def test_a_process_whose_parent_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "another")  # Linux would end the tests, too
    end_with_parent(os.getppid())
    with pytest.raises(SystemExit):
        end_with_parent(os.getpid())
