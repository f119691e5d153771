"""Memory of a card is free again when an attack opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pretend_cupy import compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures

from bandlens.core.errors import EngineError
from bandlens.core.records import Cell, Condition, Model
from bandlens.engine.backends.base import attack_variant, open_session, variant_of
from bandlens.engine.tasks import Task
from bandlens.engine.workbench import Workbench
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.image_set import ImageSet

COUNT = 21


SEED = 5


PROBES = {
    "pgd_linf": {"eps": ["1/255", "4/255"], "step": "2/255", "steps": 3},
    "pgd_any": {"eps": "2/255", "step": "1/255", "steps": 4},
}


def workbench(images: ImageSet, grid: Grid, batch: int = 4, threads: int = 1) -> Workbench:
    return Workbench(grid, batch, threads, {images.info.digest: images}.__getitem__)


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
    """The classes that ONNX Runtime predicts for the images as they are."""
    with open_session(variant_of(model, "onnxruntime", "fp32"), len(images.pixels), 1) as session:
        return [int(k) for k in session.infer(images.pixels / np.float32(255)).argmax(1)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Labels are what the first model predicts, so that an attack has something to win."""
    folder = tmp_path_factory.mktemp("bench")
    models = [make_model(folder, name, seed=seed) for name, seed in (("one", 0), ("two", 1))]
    pictures = make_pictures(COUNT)
    labels = clean(models[0], make_images(folder / "unlabelled.set", pictures))
    images = make_images(folder / "images.set", pictures, labels=labels)
    return Bench(models, images, make_grid(PROBES, folder).attacks)


def test_what_other_sessions_took_of_a_card_is_free_when_an_attack_opens(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = pretend_gpu(monkeypatch, kernel_launcher(compile_kernels(tmp_path)))
    grid, room, free_bytes = make_grid(PROBES, Path()), card.free, list[int]()

    def opens(*_: object) -> None:
        free_bytes.append(card.free)
        raise EngineError("this is all")

    monkeypatch.setattr("bandlens.engine.workbench.open_attacker", opens)
    model, images = bench.models[0], bench.images.info
    clean = Cell(variant_of(model, "tensorrt", "fp32"), images, grid.clean[0], 0)
    attacked = Cell(attack_variant(model, "tensorrt"), images, grid.attacks[0], 0)
    with workbench(bench.images, grid) as place:
        list(place.compute(Task((clean,), 0, COUNT)))
        assert card.free < room
        list(place.compute(Task((attacked,), 0, COUNT)))
    assert free_bytes == [room]
