"""The run: every cell's predictions are those of its images taken one by one, however the work is cut."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_outcomes import CellOutcomes, Row, check_cut, check_rows
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from small import CLASSES, make_images, make_model, make_pictures

from bandlens.core.errors import EngineError
from bandlens.core.records import UNKNOWN_RANK, Cell, Condition, Model, Variant
from bandlens.engine.backends.base import ALL_ROWS, Session, arrays_of, open_session, variant_of
from bandlens.engine.run import make_resources, run
from bandlens.probes.arrays import to_numpy
from bandlens.probes.family import Batch
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.image_set import ImageSet, Scheme, open_image_set

COUNT = 21
ACCEPTED = [[k % 3, (k + 2) % CLASSES] if k % 5 else [] for k in range(COUNT)]
"""The classes that count as right for each image, beside its label; some have none."""
SEED = 5
Part = tuple[int, int]

SOURCE = """
def invert(images, amount):
    return amount * (1 - images) + (1 - amount) * images

def salt(images, share, rng):
    images[:, :, rng.random(images.shape[2:]) < share] = 1
    return images
"""


@dataclass(frozen=True)
class Bench:
    models: list[Model]
    images: ImageSet
    grid: Grid
    engine: str = "onnxruntime"

    @property
    def variants(self) -> list[Variant]:
        return [variant_of(model, self.engine, "fp32") for model in self.models]

    def cells(self, conditions: Sequence[Condition] | None = None) -> list[Cell]:
        return [
            Cell(variant, self.images.info, condition, SEED)
            for condition in (self.grid.conditions if conditions is None else conditions)
            for variant in self.variants
        ]

    def run(
        self,
        cells: Iterable[Cell],
        batch: int = 4,
        range_seconds: float = 60,
        progress: Mapping[str, int] | None = None,
        images: ImageSet | None = None,
    ) -> CellOutcomes:
        outcomes, cells = CellOutcomes(), list(cells)
        todo = [(cell, (progress or {}).get(cell.key, 0)) for cell in cells]
        with open_sessions(dict.fromkeys(cell.variant for cell in cells), batch) as sessions:
            resources = make_resources(arrays_of(self.engine), images or self.images, sessions)
            for part in run(todo, self.grid, resources, range_seconds, outcomes.advance):
                outcomes.keep(part)
        return outcomes


@contextmanager
def open_sessions(variants: Iterable[Variant], batch: int) -> Iterator[dict[Variant, Session]]:
    with ExitStack() as stack:
        yield {variant: stack.enter_context(open_session(variant, batch, 1)) for variant in variants}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "own.py").write_text(SOURCE)
    probes = {
        "lowpass": {"cutoff": [0.05, 0.3]},
        "highpass": {"cutoff": [0.7, 0.95]},
        "critical_band": {"noise_sd": [0.0, 0.16], "frequency": [1, 3]},
        "invert": {"file": "own.py", "amount": [0.25, 1.0]},
        "salt": {"file": "own.py", "share": 0.1},
    }
    models = [make_model(folder, name, seed=seed) for name, seed in (("one", 0), ("two", 1))]
    labels = [k % CLASSES for k in range(COUNT)]
    images = make_images(folder / "images.set", make_pictures(COUNT), labels=labels)
    accepted = Scheme(*np.array([(k, c) for k, classes in enumerate(ACCEPTED) for c in classes], np.int32).T)
    return Bench(models, replace(images, schemes={"real": accepted}), make_grid(probes, folder), engine)


@pytest.fixture(scope="module")
def reference(bench: Bench) -> dict[str, list[Row]]:
    """Every cell by its definition: each image alone, perturbed for this condition alone, in a batch of one."""
    assert bench.images.labels is not None
    rows_by_cell: dict[str, list[Row]] = {}
    xp = arrays_of(bench.engine)
    with open_sessions(bench.variants, 1) as sessions:
        for condition in bench.grid.conditions:
            perturb = bench.grid.family(condition).perturb
            for k in range(COUNT):
                images = bench.images
                batch = Batch(images.pixels[k : k + 1], images.keys[k : k + 1], np.array([k]), SEED)
                size = batch.pixels.shape
                [(_, image)] = list(perturb(np, batch, [condition], lambda size=size: np.empty(size, np.float32)))
                for cell in bench.cells([condition]):
                    logits = to_numpy(sessions[cell.variant].infer(xp.asarray(image)))[0].astype(np.float64)
                    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
                    ranking = np.argsort(-logits, kind="stable").tolist()
                    accepted_rank = min((ranking.index(label) for label in ACCEPTED[k]), default=UNKNOWN_RANK)
                    label = bench.images.labels[k]
                    row = (ranking[0], ranking.index(label), accepted_rank, float(shares.max()), float(shares[label]))
                    rows_by_cell.setdefault(cell.key, []).append(row)
    return rows_by_cell


@pytest.fixture(scope="module")
def baseline(bench: Bench) -> CellOutcomes:
    return bench.run(bench.cells())


def test_predictions_are_those_of_each_image_by_itself(
    bench: Bench, baseline: CellOutcomes, reference: dict[str, list[Row]]
) -> None:
    assert baseline.rows.keys() == reference.keys()
    assert not baseline.failed
    for key, rows in reference.items():
        check_rows(baseline.rows[key], rows)
    assert len({tuple(rows) for rows in baseline.rows.values()}) == len(baseline.rows), "conditions make a difference"
    assert baseline.progress == COUNT * len(reference)


def test_the_rank_of_several_classes_is_that_of_the_best_of_them(bench: Bench, baseline: CellOutcomes) -> None:
    lists = [[k % CLASSES, *ACCEPTED[k]] for k in range(COUNT)]
    several = Scheme(*np.array([(k, c) for k, classes in enumerate(lists) for c in classes], np.int32).T)
    outcome = bench.run(bench.cells(), images=replace(bench.images, schemes={"several": several}))
    for key, rows in baseline.rows.items():
        ranks = [min(row[1], row[2]) for row in rows]  # those of the label and of the best of the other classes
        assert [row[1] for row in outcome.rows[key]] == ranks


@fuzz(10)
@given(data=st.data())
def test_no_result_depends_on_how_the_work_is_cut(bench: Bench, baseline: CellOutcomes, data: st.DataObject) -> None:
    """The batch size, the ranges, the places where cells go on, and the other cells change nothing."""
    cells = data.draw(st.lists(st.sampled_from(bench.cells()), unique=True, min_size=1, max_size=8), label="cells")
    starts = st.one_of(st.just(0), st.integers(0, COUNT))
    progress = {cell.key: data.draw(starts, label=str(cell)) for cell in cells}
    outcome = bench.run(
        cells,
        batch=data.draw(st.integers(1, COUNT + 3), label="batch"),
        range_seconds=data.draw(st.sampled_from([0.0, 0.01, 60.0]), label="range"),
        progress=progress,
    )
    check_cut(outcome, baseline, progress, COUNT, rtol=1e-5)


def test_without_time_to_lose_every_batch_is_a_part(bench: Bench, baseline: CellOutcomes) -> None:
    """No more than one condition is at stake in a batch of many models under many conditions."""
    cells = bench.cells()
    outcome = bench.run(cells, batch=8, range_seconds=0)
    assert all(parts == [(0, 8), (8, 8), (16, 5)] for parts in outcome.parts.values())
    assert all(parts == [(0, COUNT)] for parts in baseline.parts.values()), "with time every cell is one part"
    transactions = [keys for keys in outcome.transactions if keys]
    assert sum(map(len, transactions)) == 3 * len(cells)
    assert all(len(keys) == len(set(keys)) for keys in transactions), "one part of a cell in a transaction"
    filters = {cell.key for cell in cells if cell.condition.probe in ("lowpass", "highpass")}
    assert all(len(keys) == len(bench.models) for keys in transactions if filters & {*keys})


# Failures


def test_a_cell_with_logits_that_are_not_finite_is_named_and_the_others_finish(tmp_path: Path, engine: str) -> None:
    pictures = make_pictures(COUNT)
    pictures[13] = 3
    images = make_images(tmp_path / "images.set", pictures)
    models = [make_model(tmp_path, "fragile", darkest=0.05), make_model(tmp_path, "robust", seed=1)]
    grid = make_grid({"lowpass": {"cutoff": [0.0, 0.5]}, "critical_band": {"noise_sd": 0.0}}, tmp_path)
    bench = Bench(models, images, grid, engine)
    outcome = bench.run(bench.cells(), batch=4, range_seconds=0)
    names = {cell.key: str(cell) for cell in bench.cells()}
    assert {names[key]: error.partition(";")[0] for key, error in outcome.failed.items()} == {
        "fragile, images.set, clean": "logits are not finite at image 13",
        "fragile, images.set, lowpass below 0 cycles/image": "logits are not finite at image 0",
        "fragile, images.set, lowpass below 32 cycles/image": "logits are not finite at image 13",
    }
    finished = {names[key] for key, rows in outcome.rows.items() if len(rows) == COUNT}
    assert finished == set(names.values()) - {names[key] for key in outcome.failed}


def test_a_probe_that_fails_ends_its_own_cells_only(bench: Bench, tmp_path: Path) -> None:
    """It fails for one of its conditions, in the middle of the set: a first batch is called for four times."""
    (tmp_path / "mine.py").write_text(
        "calls = []\n"
        "def mine(images, level):\n"
        "    calls.append(level)\n"
        "    if level == 2 and calls.count(2) > 6:\n"
        "        raise ValueError('no\\nidea')\n"
        "    return images * (level / 3)\n"
    )
    probes = {"mine": {"file": "mine.py", "level": [1, 2, 3]}, "lowpass": {"cutoff": 0.3}}
    probe_bench = replace(bench, grid=make_grid(probes, tmp_path))
    outcome = probe_bench.run(probe_bench.cells(), batch=4)
    failed = [cell for cell in probe_bench.cells() if cell.key in outcome.failed]
    assert {str(cell.condition) for cell in failed} == {"mine level=2"}
    assert len(failed) == len(bench.models)
    assert all("failed: ValueError: no idea" in error for error in outcome.failed.values())
    for cell in probe_bench.cells():
        if cell.key not in outcome.failed:
            assert len(outcome.rows[cell.key]) == COUNT
    assert "perturb" not in {thread.name for thread in threading.enumerate()}


def test_pixels_that_were_changed_are_not_run(bench: Bench, baseline: CellOutcomes, tmp_path: Path) -> None:
    """Every cell fails with the image's name, and has at most predictions of the batches before."""
    folder = tmp_path / "changed.set"
    shutil.copytree(bench.images.folder, folder)
    with (folder / "pixels.npy").open("r+b") as file:
        file.seek(-7 * bench.images.pixels[0].nbytes, os.SEEK_END)
        file.write(bytes(3000))
    outcome = bench.run(bench.cells(), batch=4, images=replace(open_image_set(folder), schemes=bench.images.schemes))
    assert outcome.failed.keys() == baseline.rows.keys()
    line = f"{folder}: image 14 ('{bench.images.paths[14]}') is damaged; pack the images again"
    assert set(outcome.failed.values()) == {line}
    for key, rows in outcome.rows.items():
        assert rows == baseline.rows[key][:12]


class Fails:
    """A session whose second batch fails."""

    def __init__(self, session: Session) -> None:
        self.session, self.calls = session, 0
        self.variant, self.info = session.variant, session.info
        self.rows: list[slice] = []

    def infer(self, images: Any, rows: slice = ALL_ROWS) -> Any:
        self.calls += 1
        self.rows.append(rows)
        if self.calls == 2:
            raise EngineError("out of memory")
        return self.session.infer(images, rows)


def test_a_session_that_fails_ends_its_cell_only(bench: Bench) -> None:
    cells, outcome = bench.cells(bench.grid.conditions[:2]), CellOutcomes()
    with open_sessions(bench.variants, 4) as sessions:
        sessions[cells[0].variant] = Fails(sessions[cells[0].variant])
        resources = make_resources(arrays_of(bench.engine), bench.images, sessions)
        for part in run([(cell, 0) for cell in cells], bench.grid, resources):
            outcome.keep(part)
    assert outcome.failed == {cells[0].key: "out of memory"}
    assert all(len(outcome.rows[cell.key]) == COUNT for cell in cells[1:])


def test_a_session_is_told_the_images_that_its_cell_needs(bench: Bench) -> None:
    first, second = bench.cells(bench.grid.conditions[:1])
    with open_sessions(bench.variants, 16) as sessions:
        session = sessions[second.variant] = Fails(sessions[second.variant])
        session.calls = 2
        resources = make_resources(arrays_of(bench.engine), bench.images, sessions)
        list(run([(first, 3), (second, 7)], bench.grid, resources))
    assert session.rows == [slice(4, 16), slice(0, COUNT - 16 - 3)]
