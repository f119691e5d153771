"""ONNX Runtime on a GPU: sessions on a card that is none.

The card's memory is the host's, and ONNX Runtime's CPU provider stands for CUDA's: see pretend_gpu.py for what that can
show. What only a GPU can tell is in the tests of sessions and runs with
`--engine onnxruntime-cuda`.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretend_cupy import PretendCupy
from pretend_onnxruntime import NO_CPU
from small import make_batches, make_model

from bandlens.core.errors import DeviceError, EngineError
from bandlens.core.records import Model
from bandlens.engine.backends import onnxruntime as onnxruntime_session
from bandlens.engine.backends.base import Session, open_session, variant_of
from bandlens.engine.backends.onnxruntime import GPU_ONLY, OnnxRuntimeSession, Shared, shared_by
from bandlens.engine.device.requirements import CUDA_PROVIDER
from bandlens.export.onnx.precisions import make_onnx_file

# On a card that is none


def open_model(model: Model, batch: int = 8) -> Session:
    return open_session(variant_of(model, "onnxruntime-cuda", "fp32"), batch, 1)


@pytest.mark.parametrize(
    ("precision", "left_out", "layout"),
    [("fp16", "", {"prefer_nhwc": "1"}), ("fp16", "tiling,nhwc", {}), ("fp32", "", {})],
)
def test_halves_lie_with_channels_last_unless_a_word_leaves_it_out(
    card: PretendCupy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    left_out: str,
    layout: dict[str, str],
) -> None:
    monkeypatch.setenv("BANDLENS_GPU_WITHOUT", left_out)
    model = make_model(tmp_path)
    make_onnx_file(model, "fp16")
    with open_session(variant_of(model, "onnxruntime-cuda", precision), 8, 1) as session:
        assert isinstance(session, OnnxRuntimeSession)
        usual = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        settings = session._session.settings
        assert settings == usual | {"user_compute_stream": settings["user_compute_stream"]} | layout
        assert {name: value for name, value in json.loads(session.info.versions).items() if "nhwc" in name} == layout


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("forbidden", [True, False], ids=["forbidden", "found out"])
def test_the_cpu_does_not_stand_in(forbidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for a provider that it lacks, ONNX Runtime takes the CPU unless that is forbidden."""
    engine = "onnxruntime-cuda"
    library, xp = shared_by("onnxruntime"), PretendCupy()
    if CUDA_PROVIDER in library.ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {CUDA_PROVIDER}")
    config = GPU_ONLY if forbidden else {name: value for name, value in GPU_ONLY.items() if name != NO_CPU}
    stream = xp.cuda.Stream(non_blocking=True)
    place = Shared(library.ort, xp, "a card", library.versions, CUDA_PROVIDER, "cuda", config, {}, stream)
    monkeypatch.setattr(onnxruntime_session, "shared_by", lambda _: place)
    message = "cannot open it: .* explicitly disabled" if forbidden else f"opened it without {CUDA_PROVIDER}"
    with pytest.raises(EngineError, match=message) as error:
        open_session(variant_of(make_model(tmp_path), engine, "fp32"), 4, 1)
    assert "\n" not in str(error.value)


# Errors of a GPU

CUDA = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, onnxruntime::"
    "common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) "
    "[with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError]\nCUDA failure {} ; GPU=-1 ; hostname=h ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_allocator.cc ; line=47 ; expr=cudaMalloc((void**)&p, "
    "size); \n\n"
)
ERRORS = {
    "no device": (CUDA.format("100: no CUDA-capable device"), "CUDA failure 100: no CUDA-capable device; "),
    "out of memory": (CUDA.format("2: out of memory"), "2: out of memory; out of memory on the GPU: take a smaller"),
    "no memory in the arena": (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 void* onnxruntime::BFCArena::"
        "AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 822083584",
        "Failed to allocate memory for requested buffer of size 822083584; out of memory on the GPU: take",
    ),
}


@pytest.mark.parametrize(("error", "message"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("opening", [True, False], ids=["opening", "running"])
def test_errors_of_a_gpu_are_said_without_the_source_around_them(
    error: str, message: str, opening: bool, card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(error)

    model, [content] = make_model(tmp_path), make_batches(1, 8)
    with ExitStack() as stack:
        if opening:
            monkeypatch.setattr("onnxruntime.InferenceSession", fails)
        else:
            session: Any = stack.enter_context(open_model(model))
            session._session = SimpleNamespace(run_with_iobinding=fails)
        with pytest.raises(DeviceError) as failure:
            open_model(model) if opening else session.infer(card.asarray(content))
    assert message in str(failure.value)
    assert not re.search(r"onnxruntime_src|onnxruntime::|\n", str(failure.value))
    if "no CUDA-capable" in error:
        assert str(failure.value).endswith("`bandlens doctor` says" if opening else "the next run goes on there")
