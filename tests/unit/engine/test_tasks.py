"""Tasks: they hold each cell once, and can be divided among workers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from bandlens.core.records import Cell, ImageSetInfo, Model, Variant
from bandlens.engine.tasks import whole_tasks
from bandlens.probes.attacks import ATTACKS
from bandlens.probes.grid import PUBLISHED, make_grid

GRID = make_grid({**PUBLISHED, "pgd_linf": {"steps": 5}}, Path())
MINIATURE = make_grid({"lowpass": {"cutoff": [0.1, 0.3]}, "critical_band": {"noise_sd": 0.1, "grey": False}}, Path())


def variant(name: str, engine: str = "onnxruntime") -> Variant:
    path = Path(f"{name}.onnx")
    model = Model(name, "own", "small", name, "random", "none", path, name, 224, 1000)
    return Variant(model, engine, "fp32", path, name)


def images(count: int, name: str = "set") -> ImageSetInfo:
    return ImageSetInfo(name, name, name, count, 224, "none", labelled=False)


def cells(grid=GRID, models: int = 2, counts: tuple[int, ...] = (100,), engine: str = "onnxruntime") -> list[Cell]:
    attacked = "torch-cuda" if engine == "tensorrt" else "torch"
    return [
        Cell(variant(f"m{k}", attacked if condition in grid.attacks else engine), images(count, str(n)), condition, 0)
        for n, count in enumerate(counts)
        for condition in (*grid.conditions, *grid.attacks)
        for k in range(models)
    ]


@fuzz(20)
@given(counts=st.lists(st.integers(1, 300), min_size=1, max_size=2), models=st.integers(1, 5))
def test_tasks_hold_every_cell_once_however_they_are_divided(counts: list[int], models: int) -> None:
    all_cells = cells(MINIATURE, models, tuple(counts))
    tasks = list(whole_tasks(all_cells, MINIATURE))
    assert all(len({(cell.image_set.digest, cell.seed) for cell in task.cells}) == 1 for task in tasks)
    for divide in (lambda task: [task], lambda task: task.halves(), lambda task: task.by_condition()):
        assert Counter(cell for task in tasks for part in divide(task) for cell in part.cells) == Counter(all_cells)


def test_conditions_that_share_their_transforms_share_tasks_and_attacks_are_alone_and_last() -> None:
    tasks = list(whole_tasks(cells(), GRID))
    families = [{cell.condition.probe for cell in task.cells} for task in tasks]
    assert [list(group) for group in dict.fromkeys(tuple(sorted(group)) for group in families)] == [
        ["clean"], ["highpass", "lowpass"], ["critical_band"], ["pgd_linf"]
    ]  # fmt: skip
    attacks = [task for task in tasks if task.cells[0].condition.probe in ATTACKS]
    assert all(len(task.cells) == 1 for task in attacks)
    assert [task.cells[0].model.name for task in attacks] == sorted(task.cells[0].model.name for task in attacks)


def test_halves_keep_the_networks_of_a_condition_together_while_there_are_two() -> None:
    task = max(whole_tasks(cells(MINIATURE, models=3), MINIATURE), key=lambda task: len(task.cells))
    halves = task.halves()
    while len(halves[0].cells) > 3:
        assert not {cell.condition for cell in halves[0].cells} & {cell.condition for cell in halves[1].cells}
        halves = halves[0].halves()
    assert [len(half.cells) for half in halves[0].halves()] == [1, 2]
    assert len(halves[0].halves()[0].halves()) == 1, "a cell is in one task at a time"
