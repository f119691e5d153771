"""A model in a test: it passes where it is surely no worse than an earlier run, and fails with what it lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import make_images, make_model, make_pictures, make_study

import bandlens
from bandlens.export.functions import function_of
from bandlens.export.model_files import load_model
from bandlens.probes.images.image_set import open_image_set

COUNT = 60


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with main.duckdb, its image set and model, which answers brightness, and a model at random."""
    folder = tmp_path_factory.mktemp("earlier")
    for seed, name in enumerate(("one", "two")):
        make_model(folder / "models", name, seed=seed)
    make_images(folder / "images.set", make_pictures(COUNT), labels=[k % 12 for k in range(COUNT)])
    labels = [int(picture.mean() > 128) for picture in make_pictures(COUNT)]
    make_images(folder / "bright.set", make_pictures(COUNT), labels=labels)
    model = bandlens.export_function(brightness, "bright", "released", image_size=128, out=folder / "functions")
    probes = "lowpass = {cutoff = [0.3]}\n[gate]\nnegative_flips = 0.4\n"
    for name, keys in {
        "bright": {"models": str(model.path.parent), "images": ["bright.set"], "engine": "auto"},
        "two": {"checkpoints": ["one", "two"]},
        "own": {"checkpoints": ["one"], "probes": "dim = {file = 'dim.py'}"},
        "main": {"checkpoints": ["one"]},
    }.items():
        (folder / "dim.py").write_text("def dim(images):\n    return images / 2\n", encoding="utf-8")
        study = make_study(folder, name=name, **{"probes": probes} | keys)
        bandlens.run(study, folder / "main.duckdb", analyze=False)
    return folder


def brightness(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits of dark and bright, of (n, height, width, 3)."""
    means = images.mean(axis=(1, 2, 3))
    return np.stack([np.full(len(images), 128 / 255), means], axis=1)


def darkness(images: NDArray[np.float32]) -> NDArray[np.float64]:
    return -brightness(images)


def test_the_same_model_passes_and_nothing_is_kept(earlier: Path) -> None:
    before = sorted(earlier.rglob("*"))
    model = load_model(earlier / "models", "one")
    gated = bandlens.assert_no_worse(model, earlier / "images.set", against=earlier / "main.duckdb")
    assert (gated.counts, gated.same) == ({"pass": 2, "fail": 0, "undecided": 0}, 2)
    assert sorted(earlier.rglob("*")) == before


def test_a_function_of_the_same_name_stays_what_it_is(earlier: Path, tmp_path: Path) -> None:
    model = bandlens.export_function(darkness, "dark", "released", image_size=128, out=tmp_path)
    against = f"{earlier / 'main.duckdb'}:bright"
    bandlens.assert_no_worse(brightness, earlier / "bright.set", against=against, margin=0.2, name="dark")
    assert function_of(model)[0] is darkness


def test_a_worse_model_fails_with_its_worst_rows(earlier: Path) -> None:
    against = f"{earlier / 'main.duckdb'}:bright"
    bandlens.assert_no_worse(
        lambda images: brightness(images.transpose(0, 2, 3, 1)),
        earlier / "bright.set",
        against=against,
        margin=0.2,
        layout="nchw",
    )
    weights = shutil.copy(earlier / "models" / "one.onnx", earlier / "unknown.onnx")
    with pytest.raises(bandlens.UsageError, match="unknown does not say how its images are normalized; give `normal"):
        bandlens.assert_no_worse(weights, earlier / "bright.set", against=against)
    with pytest.raises(AssertionError) as failure:
        bandlens.assert_no_worse(darkness, earlier / "bright.set", against=against)
    title, *lines = str(failure.value).splitlines()
    assert title == f"darkness against bright@1 of {earlier / 'main.duckdb'}: 0 pass, 4 fail, 0 undecided"
    assert lines[0].startswith("fail: clean, bright.set: accuracy 1 before, 0 now; low 0.")


def test_too_few_images_are_no_excuse_and_others_are_told(earlier: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = open_image_set(earlier / "images.set")
    make_images(earlier / "few.set", make_pictures(COUNT)[:4], labels=[0, 1, 2, 3])
    with pytest.raises(AssertionError, match="\nundecided: "):
        bandlens.assert_no_worse(
            bandlens.export_model(earlier / "models" / "two.onnx", "two", mean=0, std=1, out=earlier / "exported"),
            earlier / "few.set",
            against=f"{earlier / 'main.duckdb'}:main",
        )
    assert (
        f"the images differ from those of {earlier / 'main.duckdb'}: {images.info.count - 4} images of " in caplog.text
    )


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("main.duckdb:own", "study own@1: dim is a program, which no database holds; gate with the study's file"),
        ("main.duckdb:two", "unknown checkpoint of "),
        ("none.duckdb", "no results database at "),
        ("main", "main is no results database; give that of an earlier run, FILE or FILE:NAME"),
    ],
)
def test_what_cannot_be_judged_is_a_line(earlier: Path, against: str, message: str) -> None:
    place = str(earlier / against) if ".duckdb" in against else against
    with pytest.raises(bandlens.UsageError) as error:
        bandlens.assert_no_worse(brightness, earlier / "images.set", against=place)
    assert str(error.value).startswith(message)
