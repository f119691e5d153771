"""A few rounds of what soak.py does for an hour."""

from __future__ import annotations

from pathlib import Path

from soak import one_round, prepare


def test_rounds_leave_no_file_open_and_memory_as_it_was(tmp_path: Path) -> None:
    database = prepare(tmp_path)
    rounds = [one_round(tmp_path, database, number) for number in range(6)]
    assert [one.cells for one in rounds] == [4 * 29, *[4 * 28] * 5], "the clean cells are there from the second on"
    warm = rounds[2:]
    assert len({one.handles for one in warm}) == 1
    assert warm[-1].memory < 1.1 * warm[0].memory
