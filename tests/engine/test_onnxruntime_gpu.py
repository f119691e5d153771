"""ONNX Runtime on a GPU: what is refused without one, and the flow of a session on a card that is none.

What only a GPU can tell is in the test marked `gpu`, and in those of sessions and runs with
`--engine onnxruntime-cuda`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pretend_gpu import PretendCupy, Stream
from small import make_model, make_pictures

from bandlens.engine import devices, onnxruntime_providers
from bandlens.engine.cuda_driver import Gpu
from bandlens.engine.devices import gpus, readiness
from bandlens.engine.nvidia import NoGpu
from bandlens.engine.onnxruntime_providers import PROVIDERS, Place, place_of
from bandlens.engine.session import BACKENDS, Session, arrays_of, open_session, variant_of
from bandlens.engine.streams import new_stream
from bandlens.errors import DeviceError, EngineError
from bandlens.export.models import save_model
from bandlens.export.parity import onnx_logits
from bandlens.probes.arrays import to_numpy
from bandlens.records import Model

ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")
H100 = Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06")

Images = NDArray[np.float32]


def batches(count: int, size: int = 8) -> list[Images]:
    pictures = make_pictures(size * count).transpose(0, 3, 1, 2)
    return list(np.split(np.ascontiguousarray(pictures, np.float32) / np.float32(255), count))


# Without a GPU


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="there is a GPU here")
@pytest.mark.parametrize("backend", ON_GPU)
def test_without_a_gpu_nothing_is_opened(backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place_of.cache_clear()
    with pytest.raises(EngineError) as caught:
        open_session(variant_of(make_model(tmp_path), backend, "fp32"), 4, 1)
    assert str(caught.value) == str(gpus().reason)  # type: ignore[union-attr]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not isinstance(gpus(), NoGpu), reason="there is a GPU here")
@pytest.mark.parametrize("backend", ON_GPU)
def test_with_a_gpu_and_the_wrong_package_nothing_is_opened(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    for module in (devices, onnxruntime_providers):
        monkeypatch.setattr(module, "gpus", lambda: (H100,))
    readiness.cache_clear()
    with pytest.raises(EngineError) as caught:
        open_session(variant_of(make_model(tmp_path), backend, "fp32"), 4, 1)
    readiness.cache_clear()
    if PROVIDERS[backend].name not in onnxruntime.get_available_providers():
        assert f"has no {PROVIDERS[backend].name}; run: pip uninstall onnxruntime" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_every_file_has_its_own_tensorrt_engines(tmp_path: Path) -> None:
    """ONNX Runtime would take the engine of the first of two networks with equal names in their graphs."""
    variants = [variant_of(make_model(tmp_path, f"m{k}", seed=k), "onnxruntime-tensorrt", "fp32") for k in range(2)]
    again = replace(variants[0], sha256="0" * 64)
    options = [
        PROVIDERS["onnxruntime-tensorrt"].options(*one) for one in [*((v, 8) for v in (*variants, again)), (again, 4)]
    ]
    folders = {one["trt_engine_cache_path"] for one in options}
    assert len(folders) == 4
    assert all(Path(folder).is_dir() for folder in folders)
    assert {one["trt_timing_cache_path"] for one in options} == {str(tmp_path / "plans" / "onnxruntime")}


# On a card that is none


class Watched(Stream):
    """Remembers who waits for whom."""

    def __init__(self, name: str, said: list[str]) -> None:
        super().__init__()
        self.name, self.said = name, said

    def record(self) -> Any:
        event = super().record()
        event.of = self.name
        return event

    def wait_event(self, event: Any) -> None:
        self.said.append(f"{self.name} waits for {event.of}")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Iterator[PretendCupy]:
    """ONNX Runtime's CPU provider, reading and writing what it takes for the memory of a card."""
    xp, here = PretendCupy(), place_of("onnxruntime")
    xp.stream = Watched("the caller", said)
    place = Place(here.ort, xp, "a card", here.versions, Watched("the session", said))
    monkeypatch.setitem(PROVIDERS, "onnxruntime-cuda", PROVIDERS["onnxruntime"])
    places = {"onnxruntime": here, "onnxruntime-cuda": place}
    monkeypatch.setattr("bandlens.engine.onnxruntime_session.place_of", places.__getitem__)
    return xp


def opened(model: Model, batch: int = 8) -> Session:
    return open_session(variant_of(model, "onnxruntime-cuda", "fp32"), batch, 1)


def test_batches_are_read_and_logits_written_on_the_card(card: PretendCupy, tmp_path: Path) -> None:
    model, contents = make_model(tmp_path), batches(3)
    buffers = [card.empty(contents[0].shape, np.float32) for _ in range(2)]
    with opened(model) as session:
        for turn, content in enumerate(contents):
            buffers[turn % 2][...] = content
            logits = session.infer(buffers[turn % 2])
            assert type(logits) is type(buffers[0])
            wanted = onnx_logits(model.path.read_bytes(), content)
            np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_work_comes_after_the_callers_and_before_what_the_caller_does_next(
    card: PretendCupy, said: list[str], tmp_path: Path
) -> None:
    [content] = batches(1)
    with opened(make_model(tmp_path)) as session:
        said.clear()
        session.infer(card.asarray(content))
    assert said == ["the session waits for the caller", "the caller waits for the session"]


def test_says_that_threads_do_not_count(card: PretendCupy, tmp_path: Path) -> None:
    with opened(make_model(tmp_path)) as session:
        assert (session.info.device, session.info.batch, session.info.threads) == ("a card", 8, 0)
        assert "onnxruntime" in json.loads(session.info.versions)


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


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-cuda"])
def test_a_run_that_fails_is_named_and_on_a_gpu_ends_what_goes_on(
    backend: str, card: PretendCupy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    xp = np if backend == "onnxruntime" else card
    with open_session(variant_of(picky(tmp_path), backend, "fp32"), 2, 1) as session:
        dark = xp.asarray(np.zeros((2, 3, 128, 128), np.float32))
        assert (session.infer(dark) == 1).all()
        with pytest.raises(EngineError, match=r"picky \(.* fp32\): ONNX Runtime failed at batch 2: .*out of") as caught:
            session.infer(dark + xp.float32(1))
    assert isinstance(caught.value, DeviceError) == (backend == "onnxruntime-cuda")
    assert str(caught.value).endswith("goes on there" if backend == "onnxruntime-cuda" else "try a smaller batch")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


CUDA = (
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::"
    "conditional_t<THRW, void, common::Status> onnxruntime::CudaCall(ERRTYPE) [with ERRTYPE = cudaError]\nCUDA failure "
    "{} ; GPU=0 ; hostname=h ; file=/onnxruntime_src/cuda_allocator.cc ; line=47 ; expr=cudaMalloc((void**)&p, size);"
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            CUDA.format("2: out of memory"),
            "CUDA failure 2: out of memory; out of memory on the GPU: take a smaller batch",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 void* onnxruntime::BFCArena::"
            "AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 822083584",
            "Failed to allocate memory for requested buffer of size 822083584; out of memory on the GPU: take",
        ),
        (CUDA.format("700: an illegal memory access was encountered"), "encountered; what was committed stays"),
    ],
    ids=["out of memory", "no memory in the arena", "illegal access"],
)
def test_cuda_errors_are_said_without_the_source_around_them(
    error: str, message: str, card: PretendCupy, tmp_path: Path
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError(error)

    [content] = batches(1)
    with opened(make_model(tmp_path)) as session:
        session._session = SimpleNamespace(run_with_iobinding=fails)  # type: ignore[attr-defined]
        with pytest.raises(DeviceError) as caught:
            session.infer(card.asarray(content))
    assert message in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)
    assert "AllocateRawInternal" not in str(caught.value)


# On a GPU


@pytest.mark.gpu
def test_nobody_has_to_wait_for_the_gpu(engine: str, tmp_path: Path) -> None:
    """Batches are written right before, and logits read right after, in a stream of the caller's."""
    if BACKENDS[engine].arrays == "numpy":
        pytest.skip("needs an NVIDIA GPU: pytest --engine onnxruntime-cuda")
    xp, contents = arrays_of(engine), batches(6, 64)
    models = [make_model(tmp_path, f"m{k}", seed=k) for k in range(3)]
    wanted = [[onnx_logits(model.path.read_bytes(), content) for content in contents] for model in models]
    sessions = [open_session(variant_of(model, engine, "fp32"), 64, 1) for model in models]
    with new_stream(xp):
        sources, buffer = [xp.asarray(content) for content in contents], xp.empty(contents[0].shape, dtype=xp.float32)
        found = []
        for _ in range(20):
            for source in sources:
                buffer[...] = source
                found.append([session.infer(buffer).copy() for session in sessions])
        got = [[to_numpy(logits) for logits in row] for row in found]
    for turn, row in enumerate(got):
        for k, logits in enumerate(row):
            np.testing.assert_allclose(logits, wanted[k][turn % 6], rtol=1e-3, atol=1e-3)
