"""Run models in ONNX Runtime, on the CPU or on a GPU through CUDA. The batch size is fixed.

Inputs and outputs are bound to memory that is reused for every batch. There is no fallback to another provider: an ONNX
file that the requested provider cannot run completely is rejected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DeviceError, EngineError
from ...core.records import SessionInfo, Variant
from ...export.model_files import BATCH
from ...export.onnx.parity import split_batches
from ...export.plans.plan_builder import LAYOUT, gpu_settings
from ...probes.arrays import Array
from ..device.devices import CPU_ENGINE, gpus, processor_name, readiness
from ..device.gpu_errors import COMMITTED, first_error, is_of_gpu, memory_advice, onnxruntime_reason
from ..device.requirements import CUDA_PROVIDER, ONNXRUNTIME, ONNXRUNTIME_GPU, load, usable
from ..device.streams import in_network_stream, network_stream
from .base import ALL_ROWS, Session, arrays_of, check_images, content_of, multiplies_exactly, part_of, parts_with

NO_WAIT = "disable_synchronize_execution_providers"
"""Run option that makes a run return as soon as its GPU work has been launched."""


def _open(variant: Variant, content: bytes, batch: int, threads: int) -> Any:
    """Open ONNX Runtime's own session. Raises EngineError, or DeviceError if the GPU is the cause."""
    shared = shared_by(variant.engine)
    options, settings = shared.ort.SessionOptions(), dict(shared.options)
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads or 1
    options.use_deterministic_compute = shared.stream is not None
    options.add_free_dimension_override_by_name(BATCH, batch)
    for name, value in {**shared.config, **(for_int8() if variant.precision == "int8" else {})}.items():
        options.add_session_config_entry(name, value)
    if shared.stream is not None:
        # Make ONNX Runtime launch its work in the stream of all models, so that it is ordered after the perturbing.
        settings |= {"user_compute_stream": str(shared.stream.ptr), **layout_for(variant.precision)}
    try:
        session = shared.ort.InferenceSession(
            content, options, providers=[(shared.provider, settings)], enable_fallback=0
        )
    except Exception as error:
        message = f"{variant.path}: ONNX Runtime cannot open it: {onnxruntime_reason(error)}"
        if shared.stream is not None and is_of_gpu(error):
            raise DeviceError(f"{message}; {memory_advice(error, 'see what `bandlens doctor` says')}") from error
        raise EngineError(f"{message}; take another engine, or export {variant.model.name} again") from error
    if session.get_providers()[0] != shared.provider:
        raise EngineError(f"{variant}: ONNX Runtime opened it without {shared.provider}; see `bandlens doctor`")
    session._model_bytes = None  # a copy of the whole file that only the disabled fallback would need
    return session


class OnnxRuntimeSession(Session):
    """A session of ONNX Runtime."""

    def __init__(self, variant: Variant, batch: int, threads: int) -> None:
        """Open the session. `threads` is not used on a GPU.

        Raises EngineError, or DeviceError if GPU memory is insufficient.
        """
        self.variant = variant
        self._shared = shared_by(variant.engine)
        on_gpu = self._shared.stream is not None
        versions = dict(self._shared.versions) | (layout_for(variant.precision) if on_gpu else {})
        self.info = SessionInfo(self._shared.device, batch, 0 if on_gpu else threads, json.dumps(versions))
        self._shape = (batch, 3, variant.model.image_size, variant.model.image_size)
        content = content_of(variant)
        self._part = batch if on_gpu else part_of(content, batch, threads)
        self._lanes = max(1, min(threads, batch // self._part))
        self._session = _open(variant, content, self._part, self.info.threads // self._lanes)
        self._run_options = self._shared.ort.RunOptions()
        if on_gpu:  # results are ordered by the stream, so the CPU need not wait
            self._run_options.add_run_config_entry(NO_WAIT, "1")
        # Allocate in the stream that uses the memory, because CuPy's pool orders the reuse of a block by its stream.
        with network_stream(self._shared.xp):
            self._logits = self._shared.xp.empty((batch, variant.model.classes), dtype=np.float32)
        self._bindings: list[Any] = [self._session.io_binding() for _ in range(batch // self._part)]
        for binding, part in zip(self._bindings, split_batches(self._logits, self._part), strict=True):
            self._bind(binding.bind_output, "logits", part)

    def _bind(self, bind: Callable[..., None], name: str, array: Array) -> None:
        address = array.ctypes.data if self._shared.xp is np else array.data.ptr
        bind(name, self._shared.memory, 0, np.float32, array.shape, address)

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:
        """Compute the logits of one batch. The next call overwrites the returned array."""
        check_images(self.variant, images, self._shape)
        for binding, part in zip(self._bindings, split_batches(images, self._part), strict=True):
            self._bind(binding.bind_input, "images", part)
        try:
            with nullcontext() if self._shared.stream is None else in_network_stream(self._shared.xp):
                self._run(self._bindings[parts_with(rows, self.info.batch, self._part)])
        except Exception as error:
            message = f"{self.variant}: ONNX Runtime failed at batch {self.info.batch}: {onnxruntime_reason(error)}"
            if self._shared.stream is None:
                raise EngineError(f"{message}; try a smaller batch") from error
            raise DeviceError(f"{message}; {memory_advice(error, COMMITTED)}") from error
        return self._logits

    def _run(self, bindings: Sequence[Any]) -> None:
        """Run the micro-batches of these bindings, in several threads if the session uses more than one."""
        if self._lanes == 1:
            for binding in bindings:
                self._session.run_with_iobinding(binding, self._run_options)
            return
        runs = [
            threads_of(self._lanes).submit(self._session.run_with_iobinding, binding, self._run_options)
            for binding in bindings
        ]
        try:
            for run in runs:
                run.result()
        # After an error or Ctrl-C as well, wait for the threads: they read the images and write the logits, which the
        # caller may reuse next.
        finally:
            for run in runs:
                run.cancel()
            wait(runs)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._shared.stream is not None:
            with first_error(error):
                self._shared.stream.synchronize()  # launched work may still use the memory that is freed below
        del self._bindings, self._session, self._logits


open_session = OnnxRuntimeSession
"""Open a session, see `OnnxRuntimeSession`."""


@cache
def threads_of(count: int) -> ThreadPoolExecutor:
    """Return the thread pool that runs micro-batches. All sessions of this process share it."""
    return ThreadPoolExecutor(count, "infer")


CPU_PROVIDER = "CPUExecutionProvider"
SILENT = 4
"""Log level at which ONNX Runtime logs only fatal errors. Errors are raised as exceptions anyway."""
SHARED_ALLOCATORS = {"session.use_env_allocators": "1"}
"""Session options that make all sessions share one arena for activations.

Otherwise each session keeps its own, which is too much memory for a study of 48 ResNet-50 models.
"""
GPU_ONLY = SHARED_ALLOCATORS | {
    "session.disable_cpu_ep_fallback": "1",
    "session.use_device_allocator_for_initializers": "1",
}
"""Session options on a GPU."""
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""Options of the CUDA provider.

The convolution algorithms are selected by a heuristic, which gives the same result in every process. A search by timing
does not.

CUDA graphs stay disabled. A graph stores the addresses of its activations, and the arena shared by all sessions may
later give that memory to another session.
"""


def layout_for(precision: str) -> dict[str, str]:
    """Return the CUDA provider's option for channels-last layout at fp16, which tensor cores read directly."""
    return {"prefer_nhwc": "1"} if precision == "fp16" and LAYOUT in gpu_settings() else {}


EXACT = {"session.x64quantprecision": "1"}
"""Session option that avoids int8 sums that saturate at 16 bits.

It is set only where needed, because on processors without saturation it costs more than half of the speed.
"""


@dataclass(frozen=True, slots=True)
class Shared:
    """The library, execution provider, device and stream that all sessions of an engine share."""

    ort: Any
    xp: ModuleType
    device: str
    versions: Mapping[str, str]
    provider: str
    memory: str
    """ONNX Runtime's name for the kind of memory of inputs and outputs."""
    config: Mapping[str, str]
    """Options of every session."""
    options: Mapping[str, str]
    """Options of the execution provider."""
    stream: Any = None
    """The stream that all models share. None on the CPU."""


@cache
def shared_by(engine: str) -> Shared:
    """Return what the sessions of an engine share.

    Raises EngineError with the reason if the engine cannot be used here.
    """
    return _on_cpu() if engine == CPU_ENGINE else _on_gpu(engine)


@cache
def for_int8() -> Mapping[str, str]:
    """Return the session options that make int8 exact on this processor. Empty if it is exact by default."""
    ort = shared_by(CPU_ENGINE).ort

    def run(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
        session = ort.InferenceSession(content, providers=[CPU_PROVIDER])
        return np.asarray(session.run(None, {"images": images})[0])

    return {} if multiplies_exactly(run) else EXACT


def _on_cpu() -> Shared:
    """Load ONNX Runtime for the CPU and register the shared arena."""
    ort = load(ONNXRUNTIME)
    ort.set_default_logger_severity(SILENT)
    ort.create_and_register_allocator(_arena(ort, "Cpu"), None)
    versions = {"onnxruntime": ort.__version__, "numpy": np.__version__}
    return Shared(ort, np, processor_name(), versions, CPU_PROVIDER, "cpu", SHARED_ALLOCATORS, {})


def _on_gpu(engine: str) -> Shared:
    """Load ONNX Runtime for the GPU and register the shared arena. Raises EngineError if it cannot be used."""
    gpu = usable(gpus())
    if not readiness(engine).ready:
        raise EngineError(readiness(engine).line)
    xp, ort = arrays_of(engine), load(ONNXRUNTIME_GPU)
    ort.set_default_logger_severity(SILENT)
    # 1 is kSameAsRequested: extend the arena by the requested size instead of to the next power of two.
    arena_settings = ort.OrtArenaCfg({"arena_extend_strategy": 1})
    ort.create_and_register_allocator_v2(CUDA_PROVIDER, _arena(ort, "Cuda"), {}, arena_settings)
    versions = {"onnxruntime": ort.__version__, "cupy": xp.__version__, "driver": gpu.driver}
    return Shared(ort, xp, gpu.name, versions, CUDA_PROVIDER, "cuda", GPU_ONLY, CUDA_OPTIONS, network_stream(xp))


def _arena(ort: Any, device: str) -> Any:
    return ort.OrtMemoryInfo(device, ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
