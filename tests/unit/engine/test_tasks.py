"""Tasks: whatever is lacking, they hold each image of each cell once, and what they do not hold is there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandlens.core.records import Cell, ImageSetInfo, Model, Variant
from bandlens.engine.tasks import MOST_CONDITIONS, MOST_PASSES, TASKS_PER_WORKER, Task, passes, tasks_of
from bandlens.probes.attacks import ATTACKS
from bandlens.probes.grid import PUBLISHED, make_grid

GRID = make_grid({**PUBLISHED, "pgd_linf": {"steps": 5}}, Path())
SMALL = make_grid({"lowpass": {"cutoff": [0.1, 0.3]}, "critical_band": {"noise_sd": 0.1, "grey": False}}, Path())


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


def everything(_: Cell, __: int, ___: int) -> bool:
    return True


@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=2),
    batch=st.integers(1, 40),
    workers=st.integers(1, 600),
    models=st.integers(1, 5),
    data=st.data(),
)
def test_units_hold_every_image_that_a_cell_lacks_once(
    counts: list[int], batch: int, workers: int, models: int, data: st.DataObject
) -> None:
    all_cells = cells(SMALL, models, tuple(counts))
    done = {cell.key: data.draw(st.integers(0, cell.image_set.count)) for cell in all_cells}
    covered = Counter()
    for task in tasks_of(all_cells, SMALL, batch, workers, lambda cell, _, last: done[cell.key] < last):
        assert len({(cell.image_set.digest, cell.seed) for cell in task.cells}) == 1
        assert task.first % batch == 0
        assert task.last % batch == 0 or task.last == task.cells[0].image_set.count
        covered.update((cell.key, row) for cell in task.cells for row in range(task.first, task.last))
    assert set(covered.values()) <= {1}
    lacking = {(cell.key, row) for cell in all_cells for row in range(done[cell.key], cell.image_set.count)}
    assert lacking <= set(covered)


def test_conditions_that_share_their_transforms_share_units_and_attacks_are_alone_and_last() -> None:
    tasks = list(tasks_of(cells(), GRID, 8, 1, everything))
    families = [{cell.condition.probe for cell in task.cells} for task in tasks]
    assert [list(group) for group in dict.fromkeys(tuple(sorted(group)) for group in families)] == [
        ["clean"], ["highpass", "lowpass"], ["critical_band"], ["pgd_linf"]
    ]  # fmt: skip
    attacks = [task for task in tasks if task.cells[0].condition.probe in ATTACKS]
    assert all(len(task.cells) == 1 for task in attacks)
    assert [task.cells[0].model.name for task in attacks] == sorted(task.cells[0].model.name for task in attacks)


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_unit_is_a_minute_or_less_and_there_are_enough_for_all_workers(engine: str) -> None:
    arrays = "cupy" if engine == "tensorrt" else "numpy"
    for workers in (1, 8, 64):
        all_cells = cells(models=3, counts=(20_000,), engine=engine)
        tasks = list(tasks_of(all_cells, GRID, 32, workers, everything))
        share = sum(passes(cell) * cell.image_set.count for cell in all_cells) / (workers * TASKS_PER_WORKER)
        for task in tasks:
            cost = sum(passes(cell) for cell in task.cells) * (task.last - task.first)
            batches = (task.last - task.first) / 32
            assert cost <= min(MOST_PASSES[arrays], share) or (batches <= 1 and len(task.variants) == 1)
        assert len(tasks) >= workers * TASKS_PER_WORKER


def test_a_card_idles_seldom_between_tasks() -> None:
    """A card waits 0.2 to 0.4 s between two tasks, and an H100 is reckoned to make 30,000 predictions a second."""
    tasks = list(tasks_of(cells(models=48, counts=(50_000,), engine="tensorrt"), GRID, 256, 1, everything))
    seconds = sum(task.predictions for task in tasks) / 30_000
    assert 0.4 * len(tasks) < 0.01 * seconds
    assert max(task.predictions for task in tasks) < 150 * 30_000


def test_checkpoints_are_split_where_a_batch_of_all_is_too_much() -> None:
    tasks = list(tasks_of(cells(SMALL, models=48, counts=(64,)), SMALL, 32, 1, everything))
    assert max(task.predictions for task in tasks) <= MOST_PASSES["numpy"]
    assert min(len(task.variants) for task in tasks) < 48
    assert max(len(task.variants) for task in tasks) > 1


def test_a_map_of_waves_is_split_by_condition() -> None:
    waves = make_grid({"fourier": {"row": list(range(10)), "column": list(range(1, 11))}}, Path())
    all_cells = cells(waves, models=3, counts=(64,))
    tasks = list(tasks_of(all_cells, waves, 32, 1, everything))
    assert max(len({cell.condition for cell in task.cells}) for task in tasks) == MOST_CONDITIONS
    image_counts = Counter()
    for task in tasks:
        image_counts.update({cell.key: task.last - task.first for cell in task.cells})
    assert image_counts == {cell.key: 64 for cell in all_cells}


def test_the_key_names_the_rows_and_nothing_else() -> None:
    first, *rest = cells(SMALL)
    task = Task((first,), 0, 8)
    assert task.key == Task((first,), 0, 8).key
    assert len({task.key, Task((first,), 0, 9).key, Task((first,), 8, 16).key, Task((rest[0],), 0, 8).key}) == 4
    assert "images 0 to 7" in str(task)
