"""ONNX Runtime on a GPU: sessions on a card that is none.

The card's memory is the host's, and ONNX Runtime's CPU provider stands for CUDA's: see pretend_gpu.py for what that can
show. What only a GPU can tell is in the test marked `gpu`, and in those of sessions and runs with
`--engine onnxruntime-cuda`.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pretend_cupy import PretendCupy
from pretend_gpu import pretend_gpu
from pretend_onnxruntime import NO_CPU
from small import make_model, make_pictures

from bandlens.core.errors import DeviceError, EngineError
from bandlens.core.records import Model
from bandlens.engine.backends import onnxruntime as onnxruntime_session
from bandlens.engine.backends.base import ENGINES, Session, arrays_of, open_session, variant_of
from bandlens.engine.backends.onnxruntime import PROVIDERS, OnnxRuntimeSession, Provider, Shared, shared_by
from bandlens.engine.device.streams import new_stream
from bandlens.export.models import save_model
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import make_onnx_file
from bandlens.probes.arrays import to_numpy

Images = NDArray[np.float32]


def batches(count: int, size: int = 8) -> list[Images]:
    pictures = make_pictures(size * count).transpose(0, 3, 1, 2)
    return list(np.split(np.ascontiguousarray(pictures, np.float32) / np.float32(255), count))


# On a card that is none


def on_cpu(provider: Provider) -> dict[str, str]:
    """The provider's settings of a session, without the one that forbids what the CPU runs."""
    assert provider.config[NO_CPU] == "1"
    return {name: value for name, value in provider.config.items() if name != NO_CPU}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> PretendCupy:
    return pretend_gpu(monkeypatch)


def opened(model: Model, batch: int = 8) -> Session:
    return open_session(variant_of(model, "onnxruntime-cuda", "fp32"), batch, 1)


def test_batches_are_read_and_logits_written_on_the_card(card: PretendCupy, tmp_path: Path) -> None:
    model, contents = make_model(tmp_path), batches(3)
    buffers = [card.empty(contents[0].shape, np.float32) for _ in range(2)]
    with opened(model) as session:
        for turn, content in enumerate(contents):
            buffers[turn % 2].set(content)
            logits = session.infer(buffers[turn % 2])
            assert type(logits) is type(buffers[0])
            expected = onnx_logits(model.path.read_bytes(), content)
            np.testing.assert_allclose(to_numpy(logits), expected, rtol=1e-5, atol=1e-5)


def test_says_that_threads_do_not_count(card: PretendCupy, tmp_path: Path) -> None:
    with opened(make_model(tmp_path)) as session:
        assert (session.info.device, session.info.batch, session.info.threads) == ("Pretended", 8, 0)
        assert "onnxruntime" in json.loads(session.info.versions)


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


def picky(folder: Path) -> Model:
    """A model that fails on bright images: it looks their brightness up in a table of one row."""
    constants = {"two": np.array(2, np.float32), "table": np.ones((1, 12), np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "two"], ["doubled"]),
        helper.make_node("Cast", ["doubled"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "row"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "picky",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 128, 128])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 12])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    model = replace(make_model(folder, "picky"), sha256=hashlib.sha256(content).hexdigest())
    save_model(model, content, {})
    return model


@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-cuda"])
def test_a_run_that_fails_is_named_and_on_a_gpu_ends_what_goes_on(
    engine: str, card: PretendCupy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    xp = np if engine == "onnxruntime" else card
    with open_session(variant_of(picky(tmp_path), engine, "fp32"), 2, 1) as session:
        dark = xp.asarray(np.zeros((2, 3, 128, 128), np.float32))
        assert (session.infer(dark) == 1).all()
        with pytest.raises(EngineError, match=r"picky \(.* fp32\): ONNX Runtime failed at batch 2: .*out of") as caught:
            session.infer(dark + xp.float32(1))
    assert isinstance(caught.value, DeviceError) == (engine == "onnxruntime-cuda")
    assert str(caught.value).endswith("goes on there" if engine == "onnxruntime-cuda" else "try a smaller batch")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("forbidden", [True, False], ids=["forbidden", "found out"])
def test_the_cpu_does_not_stand_in(forbidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for a provider that it lacks, ONNX Runtime takes the CPU unless that is forbidden."""
    engine = "onnxruntime-cuda"
    here, provider = shared_by("onnxruntime"), PROVIDERS[engine]
    if provider.name in here.ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {provider.name}")
    xp = PretendCupy()
    place = Shared(here.ort, xp, "a card", here.versions, xp.cuda.Stream(non_blocking=True))
    monkeypatch.setattr(onnxruntime_session, "shared_by", lambda _: place)
    if not forbidden:
        monkeypatch.setitem(PROVIDERS, engine, replace(provider, config=on_cpu(provider)))
    message = "cannot open it: .* explicitly disabled" if forbidden else f"opened it without {provider.name}"
    with pytest.raises(EngineError, match=message) as caught:
        open_session(variant_of(make_model(tmp_path), engine, "fp32"), 4, 1)
    assert "\n" not in str(caught.value)


# Errors of a GPU

CUDA = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, onnxruntime::"
    "common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) "
    "[with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError]\nCUDA failure {} ; GPU=-1 ; hostname=h ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_allocator.cc ; line=47 ; expr=cudaMalloc((void**)&p, "
    "size); \n\n"
)
ERRORS = {
    "no device": (
        CUDA.format("100: no CUDA-capable device is detected"),
        "CUDA failure 100: no CUDA-capable device is detected; ",
    ),
    "out of memory": (
        CUDA.format("2: out of memory"),
        "CUDA failure 2: out of memory; out of memory on the GPU: take a smaller batch",
    ),
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

    model, [content] = make_model(tmp_path), batches(1)
    with ExitStack() as stack:
        if opening:
            monkeypatch.setattr("onnxruntime.InferenceSession", fails)
        else:
            session: Any = stack.enter_context(opened(model))
            session._session = SimpleNamespace(run_with_iobinding=fails)
        with pytest.raises(DeviceError) as caught:
            opened(model) if opening else session.infer(card.asarray(content))
    assert message in str(caught.value)
    assert not re.search(r"onnxruntime_src|onnxruntime::|\n", str(caught.value))
    if "no CUDA-capable" in error:
        assert str(caught.value).endswith("`bandlens doctor` says" if opening else "the next run goes on there")


# On a GPU


@pytest.mark.gpu
def test_nobody_has_to_wait_for_the_gpu(engine: str, tmp_path: Path) -> None:
    """Batches are written right before, and logits read right after, in a stream of the caller's."""
    if ENGINES[engine].arrays == "numpy":
        pytest.skip("needs an NVIDIA GPU: pytest --engine onnxruntime-cuda")
    xp, contents = arrays_of(engine), batches(6, 64)
    models = [make_model(tmp_path, f"m{k}", seed=k) for k in range(3)]
    expected = [[onnx_logits(model.path.read_bytes(), content) for content in contents] for model in models]
    sessions = [open_session(variant_of(model, engine, "fp32"), 64, 1) for model in models]
    with new_stream(xp):
        sources, buffer = [xp.asarray(content) for content in contents], xp.empty(contents[0].shape, dtype=xp.float32)
        outputs = []
        for _ in range(20):
            for source in sources:
                buffer[...] = source
                outputs.append([session.infer(buffer).copy() for session in sessions])
        got = [[to_numpy(logits) for logits in row] for row in outputs]
    for turn, row in enumerate(got):
        for k, logits in enumerate(row):
            np.testing.assert_allclose(logits, expected[k][turn % 6], rtol=1e-3, atol=1e-3)
