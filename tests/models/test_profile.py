"""The layers of a network in each engine of the CPU, and their times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import bandlens, make_model, tune_by_hand

from bandlens.app.api.models import profile
from bandlens.core.records import Model
from bandlens.engine.backends.base import profile_layers, variant_of

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


def test_a_profile_is_sorted_and_adds_up(model: Model) -> None:
    profiled = profile("one", "onnxruntime", batch=2, threads=1, models=model.path.parent)
    rows = profiled.rows()
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_a_profile_has_the_tuned_batch_of_its_engine(tmp_path: Path) -> None:
    make_model(tmp_path)
    tune_by_hand(tmp_path, {("onnxruntime", 8): 40.0, ("openvino", 16): 20.0}, threads=1)
    assert profile("one", "onnxruntime", threads=1, models=tmp_path).batch == 8
    assert profile("one", "onnxruntime", batch=2, threads=1, models=tmp_path).batch == 2
    assert profile("one", "onnxruntime", threads=2, models=tmp_path).batch == 32, "it is tuned for another machine"


def test_the_command_prints_a_table_and_one_line_of_errors(model: Model) -> None:
    folder = ("--models", str(model.path.parent), "--threads", "1")
    timed = bandlens("profile", "one", "--engine", "torch", *folder)
    assert timed.returncode == 0
    assert " images/s in " in timed.stdout
    refusal = bandlens("profile", "one", "--engine", "onnxruntime", "--precision", "fp16", *folder)
    assert refusal.returncode == 1
    assert refusal.stderr.count("\n") == 1
    assert "engine onnxruntime runs fp32, int8, not fp16" in refusal.stderr
