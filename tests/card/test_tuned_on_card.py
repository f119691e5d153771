"""Tuning on a card that is none: the engines of a GPU, the plans that a sweep leaves, and what a study takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretend_cupy import PretendCupy, compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures

from bandlens.app.export import Lowering
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.core.records import Variant
from bandlens.engine import tuning
from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.device import devices, requirements
from bandlens.engine.device.devices import Readiness
from bandlens.export.onnx.precisions import make_onnx_file

BATCHES = (2, 4, 8)
RATES = {("tensorrt", 4): 50.0, ("tensorrt", 8): 49.0, ("onnxruntime-cuda", 2): 60.0}
"""Rates of the pretended card, 1 where there is none; what is timed on it is Python."""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    return kernel_launcher(compile_kernels(tmp_path_factory.mktemp("kernels")))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any]) -> PretendCupy:
    xp, measure = pretend_gpu(monkeypatch, launcher), tuning.measure_rate

    def rate(variant: Variant, batch: int, threads: int, *_: float) -> float:
        assert measure(variant, batch, threads) > 0, "it really runs"
        return RATES.get((variant.engine, batch), 1.0)

    monkeypatch.setattr(tuning, "measure_rate", rate)
    monkeypatch.setattr(tuning, "BATCHES", {"cupy": BATCHES})
    return xp


def test_a_sweep_keeps_the_plans_that_were_there_and_those_of_the_best_batch(card: PretendCupy, tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", make_pictures(2))
    model = make_model(tmp_path / "models")
    make_onnx_file(model, "fp16")
    open_session(variant_of(model, "tensorrt", "fp16"), 2, 0).__exit__(None, None, None)
    tuned = tuning.tune(model, "fp16", 3)
    engines = ("tensorrt", "onnxruntime-cuda", "torch-cuda")
    assert [(rate.engine, rate.batch) for rate in tuned.rates] == [
        (name, batch) for name in engines for batch in BATCHES
    ]
    assert tuned.device == "Pretended (9.0), driver 580"
    plans = sorted(path.name.split(".")[2] for path in (tmp_path / "models" / "plans").glob("*.plan"))
    assert plans == ["b2", "b4"]
    keys = {"models": str(tmp_path / "models"), "precision": "fp16", "probes": {"lowpass": {"cutoff": 0.3}}}
    study = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], **keys)
    work = resolve(study)
    assert (work.study.engine, work.study.batch) == ("onnxruntime-cuda", 2)
    named = resolve(
        Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], engine="tensorrt", **keys)
    )
    assert named.study.batch == 4, "neither that of the other plan, nor the larger one"
    assert named.choices == [f"batch: 4 by the tuning of {tuned.date}"]
    assert tuning.usual_batch("tensorrt", "fp16", tmp_path / "models") == 4
    assert tuning.usual_batch("tensorrt", "fp32", tmp_path / "models") == 256
    file = tmp_path / "models" / "plans" / "tuning.json"
    file.write_text(json.dumps(json.loads(file.read_text().replace("driver 580", "driver 570"))))
    assert resolve(study).study.engine == "tensorrt"
    assert tuning.usual_batch("tensorrt", "fp16", tmp_path / "models") == 256


def test_export_builds_the_plans_that_studies_take(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "models")
    onnx_file, _ = make_onnx_file(model, "fp16")
    tuning.tune(model, "fp16", 3)
    for file in (tmp_path / "models" / "plans").glob("*.b*"):
        file.unlink()
    monkeypatch.setattr(devices, "readiness", lambda engine: Readiness(True, f"{engine} pretended"))
    monkeypatch.setattr(devices, "gpus", lambda: (tensorrt_session.shared_device().gpu,))
    monkeypatch.setattr(requirements, "load", lambda _: tensorrt_session.shared_device().trt)
    build = Lowering(["fp16"]).build
    assert build is not None
    assert build(onnx_file).name.startswith("one.fp16.b4.")
