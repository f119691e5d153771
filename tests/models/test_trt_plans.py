"""Plans on disk, of TensorRT-RTX: see test_tensorrt_plan."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from small import make_model
from torch import nn

from bandlens.core.errors import ExportError
from bandlens.core.records import Model
from bandlens.export.model_files import load_onnx_file
from bandlens.export.onnx.precisions import Calibration, make_onnx_file
from bandlens.export.photographs import photograph_crops
from bandlens.export.plans.plans import Target, TrtPlan, ensure_trt_plan, has_trt_plan

Randomize = Callable[[nn.Module], nn.Module]
GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def warnings_are_kept(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are kept whatever a library that another test loaded has made of the root logger."""
    logger = logging.getLogger("bandlens")
    caplog.set_level(logging.WARNING, "bandlens")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "models", size=64)


@pytest.fixture
def target(rtx: ModuleType) -> Target:
    return Target(f"{rtx.__name__} {rtx.__version__}", f"{GPU} (9.0)", 8)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_plan_is_built_once(rtx: ModuleType, model: Model, target: Target, caplog: pytest.LogCaptureFixture) -> None:
    onnx_file = load_onnx_file(model, "fp32")
    assert not has_trt_plan(onnx_file, target)
    plan = ensure_trt_plan(rtx, onnx_file, target)
    assert caplog.record_tuples == [
        (
            "bandlens",
            logging.WARNING,
            f"building a TensorRT plan: one has no fp32 plan of {target.library} for {GPU} (9.0) at batch 8",
        )
    ]
    caplog.clear()
    assert has_trt_plan(onnx_file, target)
    assert ensure_trt_plan(rtx, onnx_file, target) == plan
    assert not caplog.records
    assert plan.content == plan.path.read_bytes()
    stem = plan.path.name.removesuffix(".plan")
    assert stem.startswith("one.fp32.b8.")
    folder = model.path.parent / "plans"
    assert files(folder) == [".building", f"{stem}.json", f"{stem}.log", f"{stem}.plan", "timing.cache"]
    about = json.loads((folder / f"{stem}.json").read_text())
    assert (about["sha256"], about["bytes"], about["built_from"]) == (plan.sha256, len(plan.content), onnx_file.sha256)
    assert (about["library"], about["gpu"], about["batch"]) == (target.library, target.gpu, target.batch)
    assert "INFO: ONNX IR version" in (folder / f"{stem}.log").read_text()


def test_a_plan_is_of_one_library_gpu_batch_and_file(rtx: ModuleType, model: Model, target: Target) -> None:
    onnx_file = load_onnx_file(model, "fp32")
    ensure_trt_plan(rtx, onnx_file, target)
    targets = [
        replace(target, batch=4),
        replace(target, gpu="NVIDIA L4 (8.9)"),
        replace(target, library="tensorrt 10.16"),
    ]
    for place in targets:
        assert not has_trt_plan(onnx_file, place)
        ensure_trt_plan(rtx, onnx_file, place)
    second = load_onnx_file(make_model(model.path.parent, size=64, seed=1), "fp32")
    assert not has_trt_plan(second, target)
    ensure_trt_plan(rtx, second, target)
    assert len(list((model.path.parent / "plans").glob("*.plan"))) == 5


def test_a_damaged_plan_is_built_anew_and_that_is_said(
    rtx: ModuleType, model: Model, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    onnx_file = load_onnx_file(model, "fp32")
    plan = ensure_trt_plan(rtx, onnx_file, target)
    description = plan.path.with_suffix(".json")
    text = description.read_text()
    for path, content, words in (
        (plan.path, plan.content[:-1], "has sha256"),
        (description, b"{", "is damaged"),
        (description, b"[]", "is damaged"),
    ):
        path.write_bytes(content)
        caplog.clear()
        assert isinstance(ensure_trt_plan(rtx, onnx_file, target), TrtPlan)
        assert words in caplog.messages[0]
        assert json.loads(description.read_text()).keys() == json.loads(text).keys()
    plan.path.unlink()
    ensure_trt_plan(rtx, onnx_file, target)
    assert "cannot read" in caplog.messages[-1]


def test_int8_is_built_of_symmetric_activations(rtx: ModuleType, model: Model, target: Target) -> None:
    make_onnx_file(model, "int8", Calibration("some", "0" * 64, photograph_crops(64)))
    plan = ensure_trt_plan(rtx, load_onnx_file(model, "int8"), target)
    assert plan.path.name.startswith("one.int8.b8.")
    assert "DEFAULTING TO INT8" not in plan.path.with_suffix(".log").read_text().upper()


def test_the_log_of_a_failure_is_kept(rtx: ModuleType, model: Model, target: Target) -> None:
    """The plan has no images, and TensorRT-RTX wants at least one."""
    model.path.write_bytes(b"garbage")
    onnx_file = load_onnx_file(model, "fp32")
    stranger = replace(onnx_file, sha256=hashlib.sha256(b"garbage").hexdigest())
    with pytest.raises(ExportError, match=r"one: TensorRT cannot read the ONNX file: .*\.log$") as error:
        ensure_trt_plan(rtx, stranger, target)
    assert "\n" not in str(error.value)
    log = Path(str(error.value).rpartition(" ")[2])
    assert "ERROR" in log.read_text()
    assert not list(log.parent.glob("*.plan"))
