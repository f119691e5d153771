"""Fourier sensitivity of networks whose gradient is known: one wave, two waves, none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from small import Command, make_images, make_model, make_pictures, pack_folders, tune_by_hand

from bandlens.app.api import spectrum
from bandlens.app.api.models import sensitivity
from bandlens.core.errors import EngineError, UsageError
from bandlens.core.jobs import processors
from bandlens.core.records import Crop, Model, Variant
from bandlens.engine.backends.base import Attacker, open_attacker, variant_of
from bandlens.export.class_names import name_classes
from bandlens.export.model_files import save_model
from bandlens.probes.images.image_set import ImageSet
from bandlens.probes.images.pack import pack

SIZE = 64
NAMES = ["zebra", "ant", "whale", "bee", "crow", "deer", "elk"]


def wave(down: int, across: int) -> NDArray[np.float64]:
    place = 2 * np.pi * np.arange(SIZE) / SIZE
    return np.cos(down * place[:, None] + across * place[None])


def linear_model(folder: Path, name: str, field: NDArray[np.float64]) -> Model:
    """Two logits: the inner product of an image with a field, and its negative."""
    matrix = np.stack([field, -field]).reshape(2, 1, -1).repeat(3, axis=1).reshape(2, -1).T * 1e-3
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    linear (float[batch, 3, {SIZE}, {SIZE}] images) => (float[batch, 2] logits) {{
        flat = Flatten (images)
        logits = Gemm (flat, matrix)
    }}"""
    network = onnx.parser.parse_model(text)
    network.graph.initializer.append(numpy_helper.from_array(matrix.astype(np.float32), "matrix"))
    content = network.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    model = Model(name, "own", "linear", digest, "made up", "none", folder / f"{name}.onnx", digest, SIZE, 2)
    save_model(model, content, {})
    return model


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return make_images(tmp_path / "images.set", make_pictures(6, SIZE), labels=[0, 1] * 3)


@pytest.mark.parametrize(("down", "across", "ring", "octave"), [(3, 4, 5, 3), (0, 20, 20, 6), (30, 30, 42, 6)])
def test_a_network_of_one_wave_has_all_of_it_at_its_radius(
    down: int, across: int, ring: int, octave: int, images: ImageSet, tmp_path: Path
) -> None:
    linear_model(tmp_path, "wave", wave(down, across))
    tables = sensitivity("wave", images.folder, tmp_path).tables
    rings = {row["ring"]: row["sensitivity"] for row in tables["rings"]}
    octaves = {row["octave"]: row["sensitivity"] for row in tables["sensitivity"]}
    assert rings[ring] == pytest.approx(1, abs=1e-6)
    assert octaves[octave] == pytest.approx(1, abs=1e-6)
    assert sum(rings.values()) == pytest.approx(1)
    assert sum(octaves.values()) == pytest.approx(1)


def test_two_waves_share_by_the_squares_of_their_amplitudes(images: ImageSet, tmp_path: Path) -> None:
    linear_model(tmp_path, "waves", 1 + 2 * wave(0, 7) + wave(12, 0))
    rings = {row["ring"]: row["sensitivity"] for row in sensitivity("waves", images.folder, tmp_path).tables["rings"]}
    assert (rings[7], rings[12]) == (pytest.approx(0.8, abs=1e-6), pytest.approx(0.2, abs=1e-6))


def test_gradients_are_taken_in_the_tuned_batch(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear_model(tmp_path, "wave", wave(3, 4))
    tune_by_hand(tmp_path, {("torch", 8): 40.0}, threads=processors())
    batches: list[int] = []

    def opened(variant: Variant, batch: int, threads: int) -> Attacker:
        batches.append(batch)
        return open_attacker(variant, batch, threads)

    monkeypatch.setattr(spectrum, "open_attacker", opened)
    sensitivity("wave", images.folder, tmp_path)
    assert batches == [8]


def test_gradients_are_the_differences_of_the_loss(tmp_path: Path) -> None:
    """The gradient of the network against what a step along it does to the cross entropy."""
    model = make_model(tmp_path, size=32)
    pixels = np.ascontiguousarray(make_pictures(3, 32).transpose(0, 3, 1, 2))
    labels = np.array([1, 5, 2], np.int32)

    def losses(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = session.infer(inputs).astype(np.float64)
        return np.log(np.exp(logits).sum(axis=1)) - logits[range(3), labels]

    with open_attacker(variant_of(model, "torch", "fp32"), 3, 1) as session:
        gradient = session.gradients(pixels, labels)
        inputs = pixels.astype(np.float32) / 255
        step = (1e-3 * gradient / np.abs(gradient).max()).astype(np.float32)
        rise = losses(inputs + step) - losses(inputs - step)
    np.testing.assert_allclose(rise, 2 * (gradient * step).sum(axis=(1, 2, 3)), rtol=0.05)


def test_what_has_no_sensitivity_is_one_line(images: ImageSet, tmp_path: Path) -> None:
    linear_model(tmp_path, "flat", np.zeros((SIZE, SIZE)))
    with pytest.raises(UsageError, match="two clusters on which the loss of flat has a gradient"):
        sensitivity("flat", images.folder, tmp_path)
    make_model(tmp_path, "large", size=128)
    with pytest.raises(UsageError, match="--size 128"):
        sensitivity("large", images.folder, tmp_path)
    with pytest.raises(EngineError, match="has no gradients"):
        sensitivity("flat", images.folder, tmp_path, engine="onnxruntime")


def test_the_command_prints_octaves_and_rings(command: Command, images: ImageSet, tmp_path: Path) -> None:
    linear_model(tmp_path / "models", "wave", wave(3, 4))
    answer = command("sensitivity", "wave", images.folder, "--models", tmp_path / "models", "--format", "json")
    assert answer.code == 0, answer.err
    tables = json.loads(answer.out)
    assert max(tables["sensitivity"], key=lambda row: row["sensitivity"])["cycles"] == "3 to 4"


def test_labels_are_those_of_the_models_classes_by_name(tmp_path: Path) -> None:
    packed = pack_folders(tmp_path, ["whale", "bee", "zebra"])
    name_classes(make_model(tmp_path, "named", classes=len(NAMES)), NAMES)
    numbers = [f"{path},{NAMES.index(path.split('/')[0])}\n" for path in packed.paths]
    (tmp_path / "classes.csv").write_text("path,class\n" + "".join(numbers))
    numbered = pack(
        tmp_path / "photographs", tmp_path / "numbered.set", crop=Crop(128, 128), labels=tmp_path / "classes.csv"
    )
    expected = sensitivity("named", numbered.folder, tmp_path).tables
    assert sensitivity("named", packed.folder, tmp_path).tables == expected
