"""Run models in TensorRT.

The engine reads the batch that CuPy perturbed directly, and its work is replayed as a CUDA graph.

All sessions run one after another in the stream that all models share, and share one block of GPU memory for
activations. Each session has its own weights, logits and graphs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DeviceError, EngineError, amount
from ...core.records import SessionInfo, Variant
from ...core.untrusted import first_line
from ...export.model_files import OnnxFile
from ...export.onnx.parity import measure_parity, onnx_logits
from ...export.onnx.precisions import read_for_cpu
from ...export.plans.plan_builder import GRAPHS, TensorRT, gpu_settings, last_error, setting_choices, trt_logger
from ...export.plans.plans import (
    Target,
    TrtPlan,
    ensure_trt_plan,
    has_trt_plan,
    onnx_for_tensorrt,
    record_parity,
)
from ...export.reference_images import photograph_crops
from ...probes.arrays import Array, to_numpy
from ..device.devices import gpus
from ..device.gpu_errors import COMMITTED, first_error, gpu_errors, memory_errors
from ..device.requirements import TENSORRT, load, require_precision, usable
from ..device.run_images import free_memory
from ..device.streams import in_network_stream, network_stream
from .base import ALL_ROWS, Session, arrays_of, check_images, plan_file_of
from .onnxruntime import for_int8

if TYPE_CHECKING:
    import tensorrt

WRONG_DIFFERENCE = {"fp32": 1e-2, "fp16": 5e-2, "bf16": 3e-1}
"""Difference from ONNX Runtime's logits, relative to the largest |logit|, above which a plan is rejected.

Rounding errors are about ten times smaller than these limits. Real errors, such as a wrong memory layout or data type,
cause differences about as large as the logits.
"""
MOST_GRAPHS = 16
"""Maximum number of CUDA graphs per session.

One is needed for each input address; a run has fewer buffers than this.
"""
WRONG_SHARE = 1 / 3
"""Fraction of images with a different predicted class than in ONNX Runtime above which an int8 plan is rejected."""

_log = logging.getLogger("bandlens")


def open_session(
    variant: Variant,
    batch: int,
    threads: int,  # noqa: ARG001 - not used on a GPU
    settings: str | None = None,
) -> TensorRTSession:
    """Open a session on the first GPU, with the TensorRT plan of this ONNX file. If there is no plan, it is built.

    Args:
        variant: The model and precision.
        batch: Batch size.
        threads: Ignored.
        settings: Space-separated keys of SETTINGS. By default those of the existing plan, where a tuned plan is
            preferred to one without settings. A plan that has to be built is built without settings.

    Raises:
        EngineError: If the GPU or the precision cannot be used, or if the new plan computes wrong logits.
        ExportError: If TensorRT cannot build the plan.
        DeviceError: If the GPU fails or is out of memory.
    """
    device, onnx_file = shared_device(), plan_file_of(variant)
    require_precision(device.gpu, variant)
    if settings is None:
        choices = setting_choices()
        settings = next((words for words in choices if has_trt_plan(onnx_file, device.target(batch, words))), "")
    trt_plan = ensure_trt_plan(device.trt, onnx_file, device.target(batch, settings))
    session = TensorRTSession(variant, trt_plan, batch, device)
    if not trt_plan.compared:
        _compare(session, trt_plan, onnx_file)
    return session


def make_plan(variant: Variant, batch: int, settings: str) -> Path:
    """Find or build the TensorRT plan of a variant, compare it with ONNX Runtime, and return its path."""
    with open_session(variant, batch, 0, settings) as session:
        return session.plan_path


def _compare(session: TensorRTSession, trt_plan: TrtPlan, onnx_file: OnnxFile) -> None:
    """Compare the logits of a new plan with those of ONNX Runtime, and record the difference beside the plan.

    Raises EngineError if the plan is wrong.
    """
    variant = session.variant
    images = photograph_crops(variant.model.image_size)
    content = onnx_for_tensorrt(onnx_file) if onnx_file.precision == "int8" else read_for_cpu(onnx_file)
    parity = measure_parity(onnx_logits(content, images), session.infer_all(images))
    if variant.precision == "int8":
        # On processors without VNNI, int8 sums saturate in ONNX Runtime itself (`for_int8` then returns a workaround).
        # A difference would not show which of the two is wrong.
        differs = parity.top1_disagreements > WRONG_SHARE * parity.images and not for_int8()
        is_right = parity.relative_difference < np.inf and not differs
    else:
        is_right = parity.relative_difference <= WRONG_DIFFERENCE[variant.precision]  # False for NaN
    if not is_right:
        session.__exit__(None, None, None)
        raise EngineError(
            f"{variant}: {trt_plan.path} does not compute what ONNX Runtime does: {parity}; take another engine, and "
            "delete the plan to have it built anew"
        )
    record_parity(trt_plan, parity)


class Device:
    """The GPU, the TensorRT library, and the memory for activations that all sessions share."""

    def __init__(self) -> None:
        self.gpu = usable(gpus())
        self.xp: ModuleType = arrays_of("tensorrt")
        self.stream = network_stream(self.xp)
        self.trt: TensorRT = load(TENSORRT)
        self.messages: list[str] = []
        """Messages that TensorRT logged."""
        log: Any = trt_logger(self.trt)
        log.readers.append(self.messages)
        self.runtime = self.trt.Runtime(log)
        self.arena: Any = None
        """GPU memory for the activations of the session that is running.

        Nothing else may hold a reference to it, or the memory would not be freed when it is replaced.
        """
        self.grown = 0
        """Number of times that the arena has been replaced by a larger one."""
        self.sessions: WeakSet[TensorRTSession] = WeakSet()
        """The open sessions. The arena is freed when the last one is closed."""

    @property
    def size(self) -> int:
        """Size of the arena in bytes."""
        return int(self.arena.mem.size) if self.arena is not None else 0

    def reserve(self, size: int) -> None:
        """Enlarge the arena to at least this many bytes.

        Call this only in the stream of the models. CuPy's pool reuses memory in stream order, so the old arena is not
        overwritten before the work that uses it is complete.
        """
        if self.size < size:
            self.arena = None  # free the old arena first, so that both need not fit at once
            # Count before allocating, because the old arena is gone even if the allocation fails. Sessions compare this
            # number to notice that their graphs write to freed memory.
            self.grown += 1
            self.arena = self.xp.cuda.alloc(size)

    def target(self, batch: int, settings: str) -> Target:
        """Return the target of plans for this GPU and this version of TensorRT."""
        library = f"{self.trt.__name__} {self.trt.__version__}"
        return Target(library, f"{self.gpu.name} ({self.gpu.capability})", batch, settings)

    def error(self) -> str:
        """Return the last error message of TensorRT."""
        return last_error(self.messages)


@cache
def tell_plain(reason: str) -> None:
    """Warn that CUDA graphs are not used. Each reason is logged once per process."""
    _log.warning("tensorrt asks for its work batch by batch, since no CUDA graph can be captured: %s", reason)


shared_device = cache(Device)
"""Return the `Device` of this process, which all sessions share."""


class TensorRTSession(Session):
    """A session that runs a TensorRT plan."""

    def __init__(self, variant: Variant, trt_plan: TrtPlan, batch: int, device: Device) -> None:
        """Load the plan and allocate memory. Raises EngineError, or DeviceError if the GPU is out of memory."""
        self.variant, self._device, self.plan_path = variant, device, trt_plan.path
        size, xp = variant.model.image_size, device.xp
        self._shape = (batch, 3, size, size)
        self._engine = _load(variant, trt_plan, device)
        # Allocate in the stream that uses the memory, because CuPy's pool orders the reuse of a block by its stream.
        with self._errors_of_memory(), device.stream:
            self._logits: Array = xp.empty((batch, variant.model.classes), dtype=xp.float32)
            device.reserve(self._engine.device_memory_size_v2)
        self._context = self._engine.create_execution_context(
            device.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._context is None:
            raise DeviceError(f"{variant}: TensorRT cannot run {trt_plan.path}: {device.error()}; try a smaller batch")
        self._context.set_tensor_address("logits", self._logits.data.ptr)
        self._grown = 0
        """Value of `Device.grown` when the context was given its activation memory."""
        self._graphs: dict[int, Callable[[], None]] = {}
        """Functions that replay the work on a batch, by the address of the batch."""
        self._prepared, self._can_capture = False, GRAPHS in gpu_settings()
        device.sessions.add(self)
        versions = {device.trt.__name__: device.trt.__version__, "cupy": xp.__version__, "driver": device.gpu.driver}
        self.info = SessionInfo(device.gpu.name, batch, 0, json.dumps(versions | {"trt_plan": trt_plan.sha256}))

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:  # noqa: ARG002 - a plan has a fixed batch size
        """Compute the logits of one batch. The next call overwrites the returned array."""
        check_images(self.variant, images, self._shape)
        device = self._device
        with in_network_stream(device.xp):
            if self._grown != device.grown:
                with self._errors_of_memory():
                    device.reserve(self._engine.device_memory_size_v2)
                self._grown = device.grown
                self._context.set_device_memory(device.arena.ptr, device.size)
                self._graphs.clear()  # their kernels use addresses in the old arena
                self._prepared = False
            replay = self._graphs.get(images.data.ptr) or self._add_graph(images)
            if replay is None:
                self._execute(images)
                self._prepared = True
            else:
                replay()
        return self._logits

    def _errors_of_memory(self) -> AbstractContextManager[None]:
        batch, size = self._shape[0], self._engine.device_memory_size_v2
        message = f"{self.variant}: out of memory on the GPU: a batch of {batch}"
        return memory_errors(self._device.xp, batch, size, message)

    def _execute(self, images: Array) -> None:
        self._context.set_tensor_address("images", images.data.ptr)
        if not self._context.execute_async_v3(self._device.stream.ptr):
            raise DeviceError(f"{self.variant}: TensorRT failed: {self._device.error()}; {COMMITTED}")

    def _add_graph(self, images: Array) -> Callable[[], None] | None:
        """Capture the work on a batch as a CUDA graph, and return a function that replays it.

        Returns None for the first batch, because TensorRT then initializes itself with calls that cannot be captured.
        Also returns None if the capture fails, which is logged once; if the GPU itself has failed, the ordinary
        execution that follows raises the error.

        Set BANDLENS_GPU_WITHOUT=graphs to turn graphs off without a warning.
        """
        if not (self._prepared and self._can_capture):
            return None
        if len(self._graphs) == MOST_GRAPHS:
            # Some graphs may still be running. CUDA frees such a graph when it has finished (see cuGraphExecDestroy).
            self._graphs.clear()
        stream = self._device.stream
        try:
            # The perturbing thread may allocate memory through CuPy during the capture. CuPy captures in
            # cudaStreamCaptureModeRelaxed by default, in which allocations do not invalidate the capture.
            stream.begin_capture()
            try:
                self._execute(images)
            except BaseException:
                with suppress(Exception):  # the capture is invalid, and the original error is raised below
                    stream.end_capture()
                raise
            replay = partial(stream.end_capture().launch, stream)
        except Exception as error:  # noqa: BLE001 - any error; if the GPU is lost, `_execute` raises next
            self._can_capture = False
            tell_plain(first_line(error))
            return None
        self._graphs[images.data.ptr] = replay
        return replay

    def infer_all(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of any number of images in host memory, (n, classes).

        Used to compare a plan with ONNX Runtime.
        """
        xp, batch = self._device.xp, self._shape[0]
        logits = []
        for first in range(0, len(images), batch):
            rows = np.minimum(np.arange(first, first + batch), len(images) - 1)
            logits.append(to_numpy(self.infer(xp.asarray(np.ascontiguousarray(images[rows]))).copy()))
        self._graphs.clear()  # the graphs are bound to batches that have been freed
        return np.concatenate(logits)[: len(images)]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with first_error(error):
            self._device.stream.synchronize()  # launched work may still use the memory that is freed below
        # The order matters: TensorRT requires that a context is destroyed before its engine.
        del self._graphs, self._context, self._engine, self._logits
        self._device.sessions.discard(self)
        if not self._device.sessions:
            self._device.arena = None


def _load(variant: Variant, trt_plan: TrtPlan, device: Device) -> tensorrt.ICudaEngine:
    """Deserialize the plan.

    Raises DeviceError if GPU memory is insufficient, and EngineError if the plan is invalid.
    """
    engine = device.runtime.deserialize_cuda_engine(trt_plan.content)
    if engine is None:
        with gpu_errors():  # if the GPU is lost, this call raises that error instead of blaming the plan
            free = free_memory(device.xp)
        if "memory" in device.error().lower():
            raise DeviceError(
                f"{variant}: no room on the GPU for its weights, and {amount(free)} are free: {device.error()}; run "
                "fewer checkpoints at a time"
            )
        raise EngineError(
            f"{trt_plan.path}: TensorRT cannot load the plan: {device.error()}; delete it, and the next run builds it "
            "anew"
        )
    return engine
