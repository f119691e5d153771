"""How many processors a container lets this process use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bandlens.processors import processors

MANY = 64


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of many processors, in a container that says nothing of them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)), raising=False)
    monkeypatch.setattr("bandlens.processors.CGROUP", tmp_path)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, MANY),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "12800000 100000\n"}, MANY),
        ({"cpu.max": "max 100000\n"}, MANY),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MANY),
    ],
)
def test_a_quota_of_time_counts_as_well_as_the_processors(tmp_path: Path, files: dict[str, str], count: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors() == count
