"""Attacks on a workbench: a cell's predictions are those of its images attacked one by one, however work is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cell_outcomes import CellOutcomes, Row, check_cut, check_rows
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from small import make_images, make_model, make_pictures, replace_content

from bandlens.core.errors import DeviceError
from bandlens.core.records import Cell, Condition, Model
from bandlens.engine.backends.base import attack_variant, open_session, variant_of
from bandlens.engine.backends.pgd import Budget, pgd, pgd_any
from bandlens.engine.device.devices import gpus
from bandlens.engine.device.nvidia import NoGpu
from bandlens.engine.task_context import Workbench
from bandlens.engine.tasks import whole_tasks
from bandlens.export.torch.network import OnnxNetwork
from bandlens.probes.attacks import uniform_start
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.image_set import ImageSet

COUNT, SIZE = 21, 32
make_network = partial(make_model, size=SIZE)
SEED = 5
PROBES = {
    "pgd_linf": {"eps": ["1/255", "4/255"], "step": "2/255", "steps": 3},
    "pgd_any": {"eps": "2/255", "step": "1/255", "steps": 4},
}


check_attacked = partial(check_rows, rtol=2e-3)
"""A step is a sign, so that rounding can turn a pixel round: confidences are close, and classes equal."""


def workbench(images: ImageSet, grid: Grid, batch: int = 4, threads: int = 1) -> Workbench:
    return Workbench(grid, batch, threads, {images.info.digest: images}.__getitem__)


def attack(
    cells: Sequence[Cell],
    images: ImageSet,
    batch: int = 4,
    range_seconds: float = 60,
    progress: Mapping[str, int] | None = None,
) -> CellOutcomes:
    outcomes, grid = CellOutcomes(), make_grid(PROBES, Path())
    with workbench(images, grid, batch) as bench:
        for task in whole_tasks(cells, grid):
            for part in bench.compute(task, progress, range_seconds, outcomes.advance):
                outcomes.keep(part)
    return outcomes


@dataclass(frozen=True)
class Bench:
    models: list[Model]
    images: ImageSet
    attacks: tuple[Condition, ...]

    def cells(self, models: Sequence[Model] | None = None) -> list[Cell]:
        return [
            Cell(attack_variant(model, "onnxruntime"), self.images.info, condition, SEED)
            for model in models or self.models
            for condition in self.attacks
        ]


def clean(model: Model, images: ImageSet) -> list[int]:
    """The model's predictions for the images as they are, by ONNX Runtime."""
    with open_session(variant_of(model, "onnxruntime", "fp32"), len(images.pixels), 1) as session:
        return [int(k) for k in session.infer(images.pixels / np.float32(255)).argmax(1)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Labels are what the first model predicts, so that an attack has something to win."""
    folder = tmp_path_factory.mktemp("bench")
    models = [make_network(folder, name, seed=seed) for name, seed in (("one", 0), ("two", 1))]
    pictures = make_pictures(COUNT, SIZE)
    labels = clean(models[0], make_images(folder / "unlabelled.set", pictures))
    images = make_images(folder / "images.set", pictures, labels=labels)
    return Bench(models, images, make_grid(PROBES, folder).attacks)


@pytest.fixture(scope="module")
def baseline(bench: Bench) -> CellOutcomes:
    return attack(bench.cells(), bench.images)


def by_itself(cell: Cell, images: ImageSet, index: int) -> Row:
    """An image attacked alone, by the functions that a run puts together."""
    network = OnnxNetwork(cell.model.path.read_bytes())
    image = torch.from_numpy(images.pixels[index : index + 1] / np.float32(255))
    label = network(image).argmax(1) if images.labels is None else torch.tensor(images.labels[index : index + 1]).long()
    start = torch.from_numpy(uniform_start(SEED, images.keys[index : index + 1], images.info.size))
    function = {"pgd_linf": pgd, "pgd_any": pgd_any}[cell.condition.probe]
    logits = function(network, image, label, start, Budget(**dict(cell.condition.parameters))).logits[0]
    ranking = logits.argsort(descending=True, stable=True).tolist()
    shares = logits.softmax(0)
    rank, share = (-1, -1) if images.labels is None else (ranking.index(int(label)), float(shares[label]))
    return ranking[0], rank, -1, float(shares.max()), share


def test_predictions_are_those_of_each_image_by_itself(bench: Bench, baseline: CellOutcomes) -> None:
    assert baseline.rows.keys() == {cell.key for cell in bench.cells()}
    for cell in bench.cells():
        check_attacked(baseline.rows[cell.key], [by_itself(cell, bench.images, k) for k in range(COUNT)])
    assert baseline.progress == COUNT * len(bench.cells())
    assert not baseline.failed


@fuzz(6)
@given(data=st.data())
def test_no_result_depends_on_how_the_work_is_cut(bench: Bench, baseline: CellOutcomes, data: st.DataObject) -> None:
    """The batch size, the ranges, the places where cells go on, and the other cells of the run change nothing."""
    cells = data.draw(st.lists(st.sampled_from(bench.cells()), unique=True, min_size=1, max_size=4), label="cells")
    starts = st.one_of(st.just(0), st.integers(0, COUNT))
    progress = {cell.key: data.draw(starts, label=str(cell)) for cell in cells}
    outcome = attack(
        cells,
        bench.images,
        batch=data.draw(st.integers(1, COUNT + 3), label="batch"),
        range_seconds=data.draw(st.sampled_from([0.0, 60.0]), label="range"),
        progress=progress,
    )
    check_cut(outcome, baseline, progress, COUNT, rtol=2e-3)


def test_without_labels_it_leads_away_from_the_clean_prediction(
    bench: Bench, baseline: CellOutcomes, tmp_path: Path
) -> None:
    """The labels of the bench are the first model's clean predictions, so that nothing else is different."""
    images = make_images(tmp_path / "images.set", bench.images.pixels.transpose(0, 2, 3, 1))
    unlabelled_bench = replace(bench, images=images)
    labelled, unlabelled = bench.cells(bench.models[:1]), unlabelled_bench.cells(bench.models[:1])
    outcomes = attack(unlabelled, images)
    for cell, bare_cell in zip(labelled, unlabelled, strict=True):
        expected = [(predicted, -1, -1, sure, -1) for predicted, _, _, sure, _ in baseline.rows[cell.key]]
        assert outcomes.rows[bare_cell.key] == expected


# Failures


def unknown_operator(folder: Path) -> Model:
    """A model with Softsign, which exports of classifiers do not have."""
    model = make_network(folder, "strange")
    graph = onnx.load(model.path)
    graph.graph.node[-1].output[0] = "scores"
    graph.graph.node.append(helper.make_node("Softsign", ["scores"], ["logits"]))
    return replace_content(model, graph.SerializeToString())


def test_a_network_that_cannot_be_attacked_fails_its_own_cells(bench: Bench, tmp_path: Path) -> None:
    models = [unknown_operator(tmp_path), bench.models[0]]
    cells = bench.cells(models)
    outcome = attack(cells, bench.images)
    assert outcome.failed.keys() == {cell.key for cell in cells if cell.model is models[0]}
    for error in outcome.failed.values():
        assert error.startswith("strange (torch fp32): its ONNX file uses the operator Softsign, for which")
        assert "\n" not in error
    assert all(len(rows) == COUNT for rows in outcome.rows.values())


# Engines that attacks run on


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="this machine has a GPU")
def test_a_gpu_is_not_replaced_by_the_cpu(bench: Bench) -> None:
    cell = replace(bench.cells()[0], variant=attack_variant(bench.models[0], "tensorrt"))
    assert "GPU" in attack([cell], bench.images).failed[cell.key]


def test_a_gpu_that_is_lost_while_a_network_opens_is_no_refusal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_device(*_: object) -> None:
        raise DeviceError("the GPU is lost")

    monkeypatch.setattr("bandlens.engine.task_context.open_session", lose_device)
    with workbench(bench.images, make_grid(PROBES, Path())) as place:
        with pytest.raises(DeviceError, match="the GPU is lost"):
            place.open([variant_of(bench.models[0], "onnxruntime", "fp32")])
        assert not place.errors


def test_one_attacked_network_is_open_at_a_time_and_nothing_beside_it(bench: Bench) -> None:
    grid = make_grid(PROBES, Path())
    perturbed = [
        Cell(variant_of(model, "onnxruntime", "fp32"), bench.images.info, grid.clean[0], 0) for model in bench.models
    ]
    tasks = list(whole_tasks([*bench.cells(), *perturbed], grid))
    assert [task.attack for task in tasks] == [False, *[True] * 6], "attacks come last"
    with workbench(bench.images, grid) as place:
        for task in (*tasks, tasks[0]):  # the first task comes once more, as when it is tried again
            list(place.compute(task.limited_to(task.cells), range_seconds=0))
            assert list(place.sessions) == task.variants
        assert place.sessions
    assert not place.sessions
