"""A plan on disk is that of one ONNX file, whatever built it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import filelock
import pytest
from filelock import FileLock
from small import make_model

from bandlens.core.errors import UsageError
from bandlens.export.model_files import load_onnx_file
from bandlens.export.plans import plans
from bandlens.export.plans.plans import Target, ensure_trt_plan, has_trt_plan

LIBRARY: Any = None
TARGET = Target("tensorrt 10.16", "NVIDIA L4 (8.9)", 8)


def test_a_plan_is_of_one_library_gpu_batch_and_file_and_is_built_once_or_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plans, "build_trt_plan", lambda *_, **__: b"what a library would build")
    onnx_file = load_onnx_file(make_model(tmp_path, size=32, seed=0), "fp32")
    assert not has_trt_plan(onnx_file, TARGET)
    plan = ensure_trt_plan(LIBRARY, onnx_file, TARGET)
    place = f"one has no fp32 plan of {TARGET.library} for {TARGET.gpu} at batch 8"
    assert caplog.messages == [f"building a TensorRT plan: {place}"]
    assert has_trt_plan(onnx_file, TARGET)
    assert ensure_trt_plan(LIBRARY, onnx_file, TARGET) == plan
    for change in ({"batch": 4}, {"gpu": "NVIDIA H100 (9.0)"}, {"library": "tensorrt 11.4"}):
        assert not has_trt_plan(onnx_file, replace(TARGET, **change))
    description = plan.path.with_suffix(".json")
    for path, content, words in (
        (plan.path, plan.content[:-1], "has sha256"),
        (description, b"{", "is damaged"),
        (description, b"[]", "is damaged"),
    ):
        path.write_bytes(content)
        assert ensure_trt_plan(LIBRARY, onnx_file, TARGET).content == plan.content == plan.path.read_bytes()
        assert words in caplog.messages[-1]
    plan.path.unlink()
    ensure_trt_plan(LIBRARY, onnx_file, TARGET)
    assert "cannot read" in caplog.messages[-1]
    assert len(caplog.messages) == 5
    assert not has_trt_plan(load_onnx_file(make_model(tmp_path, size=32, seed=1), "fp32"), TARGET)


def test_three_runs_that_lack_a_plan_build_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them have looked for it before any of them has the lock."""
    onnx_file, builds = load_onnx_file(make_model(tmp_path, size=32), "fp32"), list[bytes]()
    lacking, locks = Barrier(3, timeout=60), list[Path]()

    def lock_together(path: Path) -> FileLock:
        locks.append(path)
        lacking.wait()
        return FileLock(path)

    def build(*_: object, **__: object) -> bytes:
        builds.append(b"the plan of build %d" % len(builds))
        return builds[-1]

    monkeypatch.setattr(filelock, "FileLock", lock_together)
    monkeypatch.setattr(plans, "build_trt_plan", build)
    with ThreadPoolExecutor(3) as runs:
        trt_plans = list(runs.map(lambda _: ensure_trt_plan(LIBRARY, onnx_file, TARGET), range(3)))
    assert locks == [tmp_path / "plans" / ".building"] * 3
    assert [trt_plan.content for trt_plan in trt_plans] == builds * 3


def test_a_folder_that_cannot_be_written_is_found_before_minutes_of_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "build_trt_plan", None)
    (tmp_path / "plans/.building").mkdir(parents=True)  # as unwritable as a folder can be for root
    with pytest.raises(UsageError, match=r"cannot write .*plans.*: Is a directory; make its folder"):
        ensure_trt_plan(LIBRARY, load_onnx_file(make_model(tmp_path, size=32), "fp32"), TARGET)
