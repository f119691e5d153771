"""ONNX Runtime on the CPU, and on a GPU through CUDA: a fixed batch, inputs and outputs bound to memory that is reused.

Nothing falls back: an ONNX file that the provider cannot run whole is refused.
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
"""An option of a run, with which it returns as soon as its work has been asked for."""


def _open(variant: Variant, content: bytes, batch: int, threads: int) -> Any:
    """A session of ONNX Runtime's own. Raises EngineError, and DeviceError for a fault of the GPU."""
    shared = shared_by(variant.engine)
    options, settings = shared.ort.SessionOptions(), dict(shared.options)
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads or 1
    options.use_deterministic_compute = shared.stream is not None
    options.add_free_dimension_override_by_name(BATCH, batch)
    for name, value in {**shared.config, **(for_int8() if variant.precision == "int8" else {})}.items():
        options.add_session_config_entry(name, value)
    if shared.stream is not None:
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
    session._model_bytes = None  # the whole file, kept for a fallback
    return session


class OnnxRuntimeSession(Session):
    def __init__(self, variant: Variant, batch: int, threads: int) -> None:
        """`threads` are not used on a GPU. Raises EngineError, and DeviceError where a GPU has no room."""
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
        if on_gpu:  # the caller's stream waits, and the caller need not
            self._run_options.add_run_config_entry(NO_WAIT, "1")
        with network_stream(self._shared.xp):  # CuPy hands out memory for the next work of this stream
            self._logits = self._shared.xp.empty((batch, variant.model.classes), dtype=np.float32)
        self._bindings: list[Any] = [self._session.io_binding() for _ in range(batch // self._part)]
        for binding, part in zip(self._bindings, split_batches(self._logits, self._part), strict=True):
            self._bind(binding.bind_output, "logits", part)

    def _bind(self, bind: Callable[..., None], name: str, array: Array) -> None:
        address = array.ctypes.data if self._shared.xp is np else array.data.ptr
        bind(name, self._shared.memory, 0, np.float32, array.shape, address)

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:
        """Logits of one batch; the array is overwritten by the next call."""
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
        """Run the parts of these bindings, in threads where the session has several."""
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
        finally:  # nothing may be read or written any more once the caller goes on, be it after an error or Ctrl-C
            for run in runs:
                run.cancel()
            wait(runs)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._shared.stream is not None:
            with first_error(error):
                self._shared.stream.synchronize()  # work that was asked for uses all of these
        del self._bindings, self._session, self._logits


open_session = OnnxRuntimeSession


@cache
def threads_of(count: int) -> ThreadPoolExecutor:
    """The threads that run parts of batches, for all sessions of this process."""
    return ThreadPoolExecutor(count, "infer")


CPU_PROVIDER = "CPUExecutionProvider"
SILENT = 4
"""The severity below which ONNX Runtime logs nothing: errors come as exceptions."""
SHARED_ALLOCATORS = {"session.use_env_allocators": "1"}
"""Settings of sessions that share an arena for activations; 48 ResNet-50s would otherwise each keep one."""
GPU_ONLY = SHARED_ALLOCATORS | {
    "session.disable_cpu_ep_fallback": "1",
    "session.use_device_allocator_for_initializers": "1",
}
"""Settings of sessions on a GPU."""
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""Options of the CUDA provider. The heuristic takes the same algorithms in every process; a search does not.

CUDA graphs stay off: a graph keeps the addresses of its activations, and the arena that all sessions share may hand
these to what a session that is opened later keeps there.
"""


def layout_for(precision: str) -> dict[str, str]:
    """The option of the CUDA provider with which halves lie as tensor cores read them: channels last."""
    return {"prefer_nhwc": "1"} if precision == "fp16" and LAYOUT in gpu_settings() else {}


EXACT = {"session.x64quantprecision": "1"}
"""A setting without sums that are cut to 16 bits; processors that cut none anyway lose more than half their speed."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The library, execution provider, device and stream that all sessions of an engine share."""

    ort: Any
    xp: ModuleType
    device: str
    versions: Mapping[str, str]
    provider: str
    memory: str
    """The memory of inputs and outputs, in ONNX Runtime's words."""
    config: Mapping[str, str]
    """Settings of every session."""
    options: Mapping[str, str]
    """The provider's own options."""
    stream: Any = None
    """The stream of all networks; None on the CPU."""


@cache
def shared_by(engine: str) -> Shared:
    """The shared parts of an engine's sessions; EngineError where it cannot be used here, with what it lacks."""
    return _on_cpu() if engine == CPU_ENGINE else _on_gpu(engine)


@cache
def for_int8() -> Mapping[str, str]:
    """Options for sessions on the CPU with which int8 is what the ONNX file says on this processor."""
    ort = shared_by(CPU_ENGINE).ort

    def run(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
        session = ort.InferenceSession(content, providers=[CPU_PROVIDER])
        return np.asarray(session.run(None, {"images": images})[0])

    return {} if multiplies_exactly(run) else EXACT


def _on_cpu() -> Shared:
    ort = load(ONNXRUNTIME)
    ort.set_default_logger_severity(SILENT)
    ort.create_and_register_allocator(_arena(ort, "Cpu"), None)
    versions = {"onnxruntime": ort.__version__, "numpy": np.__version__}
    return Shared(ort, np, processor_name(), versions, CPU_PROVIDER, "cpu", SHARED_ALLOCATORS, {})


def _on_gpu(engine: str) -> Shared:
    gpu = usable(gpus())
    if not readiness(engine).ready:
        raise EngineError(readiness(engine).line)
    xp, ort = arrays_of(engine), load(ONNXRUNTIME_GPU)
    ort.set_default_logger_severity(SILENT)
    arena_settings = ort.OrtArenaCfg({"arena_extend_strategy": 1})
    ort.create_and_register_allocator_v2(CUDA_PROVIDER, _arena(ort, "Cuda"), {}, arena_settings)
    versions = {"onnxruntime": ort.__version__, "cupy": xp.__version__, "driver": gpu.driver}
    return Shared(ort, xp, gpu.name, versions, CUDA_PROVIDER, "cuda", GPU_ONLY, CUDA_OPTIONS, network_stream(xp))


def _arena(ort: Any, device: str) -> Any:
    return ort.OrtMemoryInfo(device, ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
