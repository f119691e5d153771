"""A plan on disk is that of one ONNX file, whatever built it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import make_model

from bandlens.export.model_files import load_onnx_file
from bandlens.export.plans import plans
from bandlens.export.plans.plans import Target, ensure_trt_plan, has_trt_plan


def test_a_changed_file_has_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = None
    monkeypatch.setattr(plans, "build_trt_plan", lambda *_, **__: b"what a library would build")
    target = Target("tensorrt 10.16", "NVIDIA L4 (8.9)", 8)
    onnx_file = load_onnx_file(make_model(tmp_path, size=32, seed=0), "fp32")
    ensure_trt_plan(library, onnx_file, target)
    assert has_trt_plan(onnx_file, target)
    assert not has_trt_plan(load_onnx_file(make_model(tmp_path, size=32, seed=1), "fp32"), target)
