"""The layers of a network in each engine of the CPU: their times, and the first that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from small import bandlens, make_model, tune_by_hand

from bandlens.app.api.models import profile
from bandlens.core.errors import EngineError
from bandlens.core.records import Model
from bandlens.engine.backends.base import layer_values, open_session, profile_layers, variant_of
from bandlens.engine.backends.layer_profile import compare_layers
from bandlens.export.model_files import save_model

ENGINES = ("onnxruntime", "openvino", "torch")
BATCH = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(3).random((BATCH, 3, 128, 128), np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profile_has_the_layers_of_the_network(engine: str, model: Model, images: NDArray[np.float32]) -> None:
    pytest.importorskip(engine)
    layers = profile_layers(variant_of(model, engine, "fp32"), images, 1)
    assert all(layer.seconds >= 0 for layer in layers)
    assert [layer.operator.startswith("Conv") for layer in layers].count(True) == 1
    assert [layer.operator in ("Gemm", "FullyConnected") for layer in layers].count(True) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_values_of_layers_end_in_the_logits_of_a_session(
    engine: str, model: Model, images: NDArray[np.float32]
) -> None:
    pytest.importorskip(engine)
    variant = variant_of(model, engine, "fp32")
    values = layer_values(variant, images, 1)
    assert values.keys() >= {"c", "r", "p", "g", "colour", "logits"}
    with open_session(variant, BATCH, 1) as session:
        np.testing.assert_allclose(values["logits"], session.infer(images), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(values["r"], np.maximum(values["c"], 0))


def with_weights(
    model: Model, folder: Path, change: Callable[[str, NDArray[np.float32]], NDArray[np.float32]]
) -> Model:
    """The model with weights that were changed, by their names."""
    proto = onnx.load(model.path)
    for initializer in proto.graph.initializer:
        array = change(initializer.name, numpy_helper.to_array(initializer))
        initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    content = proto.SerializeToString()
    changed = replace(model, path=folder / model.path.name, sha256=sha256(content).hexdigest())
    save_model(changed, content, {})
    return changed


def test_the_first_layer_that_differs_is_the_one_that_was_changed(
    model: Model, images: NDArray[np.float32], tmp_path: Path
) -> None:
    changed = with_weights(model, tmp_path, lambda name, array: array * np.float32(1.01 if name == "matrix" else 1))
    values = [layer_values(variant_of(each, "onnxruntime", "fp32"), images, 1) for each in (model, changed)]
    differences = compare_layers(model.path.read_bytes(), *values, 1e-3)
    assert [layer.layer for layer in differences if layer.differs] == ["g", "logits"]
    assert next(layer.relative for layer in differences if layer.layer == "g") == pytest.approx(0.01, rel=0.1)


def test_not_a_number_differs(model: Model, images: NDArray[np.float32]) -> None:
    values = layer_values(variant_of(model, "onnxruntime", "fp32"), images, 1)
    broken = values | {"p": np.full_like(values["p"], np.nan)}
    assert [
        layer.layer for layer in compare_layers(model.path.read_bytes(), values, broken, 1e-3) if layer.differs
    ] == ["p"]
    with pytest.raises(EngineError, match="no layer in common"):
        compare_layers(model.path.read_bytes(), values, {"logits": values["logits"]}, 1e-3)


def test_bf16_differs_from_fp32_by_what_it_rounds(model: Model) -> None:
    differences = profile("one", "torch", "bf16", compare="onnxruntime", threads=1, models=model.path.parent)
    relative = {layer.layer: layer.relative for layer in differences}
    assert 2**-9 / 4 < relative["c"] < 2**-6  # bfloat16 has 8 bits
    assert relative["colour"] < 1e-4  # a mean, which stays in float32
    assert not any(layer.differs for layer in differences)


def test_a_profile_is_sorted_and_adds_up(model: Model) -> None:
    profiled = profile("one", "onnxruntime", batch=2, threads=1, models=model.path.parent)
    rows = profiled.rows()
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_a_profile_has_the_tuned_batch_of_its_engine(model: Model, tmp_path: Path) -> None:
    copied = with_weights(model, tmp_path, lambda _, array: array)
    tune_by_hand(tmp_path, {("onnxruntime", 8): 40.0, ("openvino", 16): 20.0}, threads=1)
    assert profile("one", "onnxruntime", threads=1, models=copied.path.parent).batch == 8
    assert profile("one", "onnxruntime", batch=2, threads=1, models=tmp_path).batch == 2
    assert profile("one", "onnxruntime", threads=2, models=tmp_path).batch == 32, "it is tuned for another machine"


def test_the_command_prints_a_table_and_one_line_of_errors(model: Model) -> None:
    folder = ("--models", str(model.path.parent), "--threads", "1")
    compared = bandlens("profile", "one", "--engine", "torch", "--compare", "onnxruntime", *folder)
    assert compared.returncode == 0
    assert "no layer differs by more than rounding explains" in compared.stdout + compared.stderr
    wrong = bandlens("profile", "one", "--engine", "onnxruntime", "--precision", "fp16", *folder)
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert "engine onnxruntime runs fp32, int8, not fp16" in wrong.stderr
