"""A study of six small models under the whole grid, analyzed, with its images beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_once import make_once
from numpy.typing import NDArray
from small import make_images, make_model, make_pictures, make_study

from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.export.onnx.parity import onnx_logits

MODELS, IMAGES = 6, 40
HOSTILE = '<img src=x onerror="document.title=1">'
BLUR = """
import numpy as np

def blur(images, width):
    "A box blur over a few pixels."
    padded = np.pad(images, ((0, 0), (0, 0), (0, 0), (width, width)), mode="edge")
    return sum(padded[..., k : k + images.shape[-1]] for k in range(2 * width + 1)) / (2 * width + 1)
"""


def _labels(models: Path, pictures: NDArray[np.uint8]) -> list[int]:
    """The predictions of the models in turn, so that each is right on some images, and has something to lose."""
    images = pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    predictions = [onnx_logits(file.read_bytes(), images).argmax(axis=1) for file in sorted(models.glob("*.onnx"))]
    return [int(predictions[k % len(predictions)][k]) for k in range(len(pictures))]


def _make(place: Path) -> None:
    for seed in range(MODELS):
        make_model(place / "models", f"net_{seed}", classes=24, seed=seed, category=HOSTILE if seed == 1 else "own")
    pictures = make_pictures(IMAGES)
    make_images(place / "images.set", pictures, labels=_labels(place / "models", pictures), name="images")
    (place / "blur.py").write_text(BLUR)
    probes = "lowpass = {}\nhighpass = {}\ncritical_band = {}\nblur = {file = 'blur.py', width = [2]}"
    study = make_study(place, name="small", probes=probes, seed=3)
    run_study(resolve(Study.read(study)), place / "results.duckdb")
    with open_store(place / "results.duckdb") as store:
        compute_measures(store, "small")


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with results.duckdb, small.toml, images.set, blur.py and models."""
    folder = make_once(tmp_path_factory, "explored", _make)
    return shutil.copytree(folder, tmp_path_factory.mktemp("explored"), dirs_exist_ok=True)


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with results.duckdb of a study of 5 of the 20 images in images.set."""
    place = tmp_path_factory.mktemp("limited")
    make_model(place / "models", "net")
    labels = [k % 4 for k in range(20)]
    make_images(place / "images.set", make_pictures(20), labels=labels, name="images")
    study = make_study(place, name="few", probes="lowpass = {}\ncritical_band = {}", seed=2, limit=5)
    run_study(resolve(Study.read(study)), place / "results.duckdb")
    return place
