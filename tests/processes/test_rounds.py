"""A few rounds of what rounds.py does for hours."""

from __future__ import annotations

from pathlib import Path

from rounds import prepare, run_round


def test_rounds_leave_no_file_open_and_memory_as_it_was(tmp_path: Path) -> None:
    database = prepare(tmp_path)
    rounds = [run_round(tmp_path, database, number) for number in range(6)]
    assert [each.cells for each in rounds] == [4 * 29, *[4 * 28] * 5], "the clean cells are there from the second on"
    warm = rounds[2:]
    assert len({each.handles for each in warm}) == 1
    assert warm[-1].memory < 1.1 * warm[0].memory
