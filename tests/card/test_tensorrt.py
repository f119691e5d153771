"""TensorRT sessions on a card that is none: see pretend_gpu.py for what that can show."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pretend_tensorrt
import pytest
from deferred_card import STREAMS, DeferredStream, Graph
from numpy.typing import NDArray
from pretend_cupy import PretendCupy
from small import make_batches, make_images, make_model, make_pictures

from bandlens.core.errors import DeviceError, EngineError, ExportError, UsageError
from bandlens.core.records import Model, Variant
from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.backends.base import open_session, plan_file_of, variant_of
from bandlens.engine.device.nvidia import Gpu
from bandlens.engine.run import make_resources
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import Calibration, make_onnx_file
from bandlens.export.plans import plans
from bandlens.export.reference_images import photograph_crops
from bandlens.probes.arrays import to_numpy

BATCH = 8


def variant(model: Model) -> Variant:
    return variant_of(model, "tensorrt", "fp32")


def check_logits(logits: Any, model: Model, content: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(to_numpy(logits), onnx_logits(model.path.read_bytes(), content), rtol=1e-5, atol=1e-5)


def test_logits_are_the_models_first_and_replayed_and_at_every_address(card: PretendCupy, tmp_path: Path) -> None:
    model, contents = make_model(tmp_path), make_batches(4, BATCH)
    buffers = [card.empty(contents[0].shape, np.float32) for _ in range(3)]
    with open_session(variant(model), BATCH, 1) as session:
        launches = Graph.launched
        for turn in range(12):
            buffer, content = buffers[turn % 3], contents[turn % 4]
            buffer.set(content)
            check_logits(session.infer(buffer), model, content)
        assert Graph.launched - launches == 12, "a plan has run already, as it was compared"


NOT_CAPTURED = "tensorrt asks for its work batch by batch, since no CUDA graph can be captured: "


@pytest.mark.parametrize("invalid", [False, True], ids=["the capture ends", "nor does the capture end"])
def test_work_that_fails_while_it_is_captured_is_asked_for_plainly(
    card: PretendCupy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    invalid: bool,
) -> None:
    models, contents = [make_model(tmp_path, f"m{k}", seed=k) for k in range(2)], make_batches(2, BATCH)
    caplog.set_level(logging.WARNING, "bandlens")
    executing = pretend_tensorrt.Context.execute_async_v3

    def uncapturable(context: Any, stream: int) -> bool:
        return STREAMS[stream].captured is None and executing(context, stream)

    def ends(stream: DeferredStream) -> Any:
        captured, stream.captured = stream.captured, None
        assert captured is not None
        if invalid:
            raise card.cuda.runtime.CUDARuntimeError("cudaErrorStreamCaptureInvalidated")

    monkeypatch.setattr(pretend_tensorrt.Context, "execute_async_v3", uncapturable)
    monkeypatch.setattr(DeferredStream, "end_capture", ends)
    launches = Graph.launched
    for model in models:
        with open_session(variant(model), BATCH, 1) as session:
            for content in contents * 2:
                check_logits(session.infer(card.asarray(content)), model, content)
                assert tensorrt_session.shared_device().stream.captured is None
    assert Graph.launched == launches
    warnings = [line for line in caplog.messages if line.startswith(NOT_CAPTURED)]
    assert len(warnings) == 2, "once for each model, which the reason names"
    assert "TensorRT failed" in warnings[0]


def test_a_session_goes_on_after_a_larger_one_has_found_no_room(card: PretendCupy, tmp_path: Path) -> None:
    """The larger one has given the smaller one's memory back, in which a graph of it would write."""
    models, [content] = [make_model(tmp_path, f"m{k}", seed=k) for k in range(2)], make_batches(1, BATCH)
    card.free = 2 * BATCH * pretend_tensorrt.MEMORY
    images = card.asarray(content)
    with open_session(variant(models[0]), BATCH, 1) as session:
        for _ in range(3):
            session.infer(images)
        with pytest.raises(DeviceError, match=r"GPU: a batch of 64 takes .*; batch = 16 would fit"):
            open_session(variant(models[1]), 64, 1)
        for _ in range(3):
            check_logits(session.infer(images), models[0], content)


def build_plans_of(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT builds plans of this ONNX file, whichever it is given."""
    build = lambda trt, _, batch, **options: pretend_tensorrt.pretend_plan(trt, content, batch, **options)  # noqa: E731
    monkeypatch.setattr(plans, "build_trt_plan", build)


def test_an_int8_plan_that_computes_something_else_is_refused_where_onnxruntime_is_exact(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration("some", "0" * 64, photograph_crops(128))
    model, stranger = make_model(tmp_path), make_model(tmp_path / "stranger", seed=9)
    for source in (model, stranger):
        make_onnx_file(source, "int8", calibration)
    build_plans_of(plans.onnx_for_tensorrt(plan_file_of(variant_of(stranger, "tensorrt", "int8"))), monkeypatch)
    for options, is_refused in (({}, True), ({"session.x64quantprecision": "1"}, False)):
        monkeypatch.setattr(tensorrt_session, "for_int8", lambda options=options: options)
        with pytest.raises(EngineError, match="top-1 differs on") if is_refused else nullcontext():
            open_session(variant_of(model, "tensorrt", "int8"), BATCH, 1)


def test_a_failure_that_tensorrt_alone_knows_of_is_one_line(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(variant(make_model(tmp_path)), BATCH, 1) as session:
        monkeypatch.setattr(pretend_tensorrt.Context, "broken", True)
        session._graphs.clear()
        with pytest.raises(DeviceError, match="TensorRT failed: it does not say why; what was committed stays"):
            session.infer(card.asarray(make_batches(1, BATCH)[0]))


def test_a_host_without_pinned_memory_is_told_in_a_line(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> Any:
        raise card.cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(card.cuda, "alloc_pinned_memory", fails)
    with open_session(variant(make_model(tmp_path)), BATCH, 1) as session:
        images = make_images(tmp_path / "images.set", make_pictures(BATCH))
        with pytest.raises(DeviceError, match=r"the host has no memory for two batches of 8 images .*ulimit -l"):
            make_resources(card, images, {session.variant: session})


def test_a_plan_that_does_not_load_is_named(card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "build_trt_plan", lambda *_, **__: b"something else")
    with pytest.raises(EngineError, match=r"one\.fp32\.b8\..*: TensorRT cannot load the plan: ERROR: the plan is"):
        open_session(variant(make_model(tmp_path)), BATCH, 1)


# New plans


def plan_description(folder: Path) -> dict[str, Any]:
    [file] = (folder / "plans").glob("*.json")
    about: dict[str, Any] = json.loads(file.read_text())
    return about


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_new_plan_is_compared_with_onnxruntime_once(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    model = make_model(tmp_path)
    make_onnx_file(model, precision, Calibration("some", "0" * 64, photograph_crops(128)))
    compared, onnxruntime_logits = list[int](), tensorrt_session.onnx_logits
    counting = lambda content, images: (compared.append(len(images)), onnxruntime_logits(content, images))[1]  # noqa: E731
    monkeypatch.setattr(tensorrt_session, "onnx_logits", counting)
    for _ in range(2):
        with open_session(variant_of(model, "tensorrt", precision), BATCH, 1):
            pass
    assert compared == [12], "both crops of six photographs"
    parity = plan_description(tmp_path)["parity"]
    assert parity["images"] == 12
    assert parity["relative_difference"] < 1e-3
    assert parity["top1_disagreements"] == 0


def test_a_plan_that_computes_something_else_is_refused(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_plans_of(make_model(tmp_path / "stranger", seed=9).path.read_bytes(), monkeypatch)
    model = make_model(tmp_path)
    for _ in range(2):  # also the next time, since nothing is kept of it
        with pytest.raises(EngineError, match=r"one\.fp32\.b8\..* does not compute what ONNX Runtime does: logits"):
            open_session(variant(model), BATCH, 1)
        assert "parity" not in plan_description(tmp_path)
    assert not tensorrt_session.shared_device().sessions


def watch_builds(monkeypatch: pytest.MonkeyPatch, plain_alone: bool = False) -> list[tuple[str, ...]]:
    """The settings of each plan that TensorRT is asked for; on request it builds none with settings."""
    builds = list[tuple[str, ...]]()

    def build(trt: Any, content: bytes, batch: int, settings: Any = (), **options: Any) -> bytes:
        builds.append(tuple(settings))
        if settings and plain_alone:
            raise ExportError("TensorRT built no plan for batch 8: no tactic")
        return pretend_tensorrt.pretend_plan(trt, content, batch, **options)

    monkeypatch.setattr(plans, "build_trt_plan", build)
    return builds


def test_a_plan_is_plain_and_one_with_settings_is_taken_once_it_is_there(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, builds = make_model(tmp_path), watch_builds(monkeypatch)

    def open_plan(settings: str | None = None) -> str:
        options = {} if settings is None else {"settings": settings}
        with open_session(variant(model), BATCH, 1, **options) as session:
            return session.plan_path.name

    plain = open_plan()
    assert builds == [()]
    tiled = open_plan("tiling")
    assert (open_plan(), open_plan("")) == (tiled, plain)
    assert open_plan("level tiling") == open_plan() != tiled
    monkeypatch.setenv("BANDLENS_GPU_WITHOUT", "level")
    assert open_plan() == tiled
    assert builds == [(), ("tiling",), ("level", "tiling")]
    monkeypatch.setenv("BANDLENS_GPU_WITHOUT", "tilling,level")
    with pytest.raises(UsageError, match=r"names tilling; it may name level, tiling, nhwc, graphs$"):
        open_plan()


def test_a_build_that_fails_with_settings_is_repeated_plain_and_remembered(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, attempts = make_model(tmp_path), watch_builds(monkeypatch, plain_alone=True)
    with caplog.at_level(logging.WARNING, "bandlens"):
        for _ in range(2):
            open_session(variant(model), BATCH, 1, settings="level tiling").__exit__(None, None, None)
    assert attempts == [("level", "tiling"), ()]
    line = "one: it is built without level and tiling: TensorRT built no plan for batch 8: no tactic"
    assert caplog.messages[-1] == line


def test_a_word_leaves_graphs_out(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BANDLENS_GPU_WITHOUT", "graphs")
    model, [content] = make_model(tmp_path), make_batches(1, BATCH)
    images, launches = card.asarray(content), Graph.launched
    with caplog.at_level(logging.WARNING, "bandlens"), open_session(variant(model), BATCH, 1) as session:
        for _ in range(3):
            check_logits(session.infer(images), model, content)
    assert Graph.launched == launches
    assert not [line for line in caplog.messages if "graph" in line], "it was asked for"


# bf16


def test_bf16_is_the_fp32_file_with_a_plan_of_its_own(card: PretendCupy, tmp_path: Path) -> None:
    """Eight bits of a float: coarser than the fp32 file, and no coarser than eight bits and a few operators make it."""
    model, [content] = make_model(tmp_path), make_batches(1, BATCH)
    coarse = variant_of(model, "tensorrt", "bf16")
    assert coarse.sha256 == model.sha256
    for candidate in (variant(model), coarse):
        with open_session(candidate, BATCH, 1) as session:
            logits = to_numpy(session.infer(card.asarray(content)))
    apart = np.abs(logits - onnx_logits(model.path.read_bytes(), content)).max() / np.abs(logits).max()
    assert 2**-14 < apart < 8 * 2**-8
    assert [path.name[:11] for path in sorted((tmp_path / "plans").glob("*.plan"))] == ["one.bf16.b8", "one.fp32.b8"]
    assert plans.trt_plan_batches(plan_file_of(coarse)) == {BATCH}
    with open_session(coarse, BATCH, 1) as session:
        parity = json.loads(next((tmp_path / "plans").glob("one.bf16.*.json")).read_text())["parity"]
        assert parity["relative_difference"] < 1e-3, "ONNX Runtime rounds as the plan does"


def test_a_gpu_without_bf16_is_named(card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_session, "gpus", lambda: (Gpu("Tesla T4", 1 << 34, "7.5", "580"),))
    with pytest.raises(EngineError, match="Tesla T4 has no bf16, which takes a newer GPU; set precision to fp16 or"):
        open_session(variant_of(make_model(tmp_path), "tensorrt", "bf16"), BATCH, 1)
