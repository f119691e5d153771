"""A few trials of each program that `make soak` runs for hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dependent_probes
import disks
import faults
import hostile_commands
import interrupts
import pytest
import rounds


@pytest.mark.parametrize(
    ("campaign", "trials"),
    [
        (faults.campaign, {"local": 4, "ray": 0, "seed": 1000}),
        (disks.campaign, {"power": 4, "commands": 1, "seed": 0}),
        (interrupts.campaign, {"signals": 2, "seed": 10}),
        (dependent_probes.campaign, {"probes": 100, "seed": 0}),
        (hostile_commands.campaign, {"pairs": 3, "seed": 0}),
    ],
    ids=["faults", "disks", "interrupts", "dependent probes", "hostile commands"],
)
def test_a_few_trials_find_nothing(campaign: Callable[..., Counter[str]], trials: dict[str, int]) -> None:
    """Each program asserts what must hold after a trial."""
    assert campaign(**trials).total() >= sum(trials.values()) - trials["seed"]


def test_rounds_leave_no_file_open_and_memory_as_it_was(tmp_path: Path) -> None:
    database = rounds.prepare(tmp_path)
    results = [rounds.run_round(tmp_path, database, number) for number in range(6)]
    assert [run.cells for run in results] == [4 * 29, *[4 * 28] * 5], "the clean cells are there from the second on"
    warm = results[2:]
    assert len({run.handles for run in warm}) == 1
    assert warm[-1].memory < 1.1 * warm[0].memory
