"""Plans on disk, of TensorRT-RTX: see test_trt_build."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from small import make_model

from bandlens.core.errors import ExportError
from bandlens.core.records import Model
from bandlens.export.model_files import load_onnx_file
from bandlens.export.onnx.precisions import Calibration, make_onnx_file
from bandlens.export.plans.plans import Target, ensure_trt_plan
from bandlens.export.reference_images import photograph_crops


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "models", size=64)


@pytest.fixture
def target(rtx: ModuleType) -> Target:
    return Target(f"{rtx.__name__} {rtx.__version__}", "NVIDIA H100 80GB HBM3 (9.0)", 8)


def test_a_plan_lies_beside_its_description_its_log_and_the_timings(
    rtx: ModuleType, model: Model, target: Target
) -> None:
    plan = ensure_trt_plan(rtx, load_onnx_file(model, "fp32"), target)
    assert plan.content == plan.path.read_bytes()
    stem, folder = plan.path.stem, model.path.parent / "plans"
    assert stem.startswith("one.fp32.b8.")
    names = [".building", f"{stem}.json", f"{stem}.log", f"{stem}.plan", "timing.cache"]
    assert sorted(path.name for path in folder.iterdir()) == names
    about = json.loads((folder / f"{stem}.json").read_text())
    assert (about["sha256"], about["bytes"], about["built_from"]) == (plan.sha256, len(plan.content), model.sha256)
    assert (about["library"], about["gpu"], about["batch"]) == (target.library, target.gpu, target.batch)
    assert "INFO: ONNX IR version" in (folder / f"{stem}.log").read_text()


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
