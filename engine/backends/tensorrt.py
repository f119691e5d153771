"""TensorRT: the batch that CuPy perturbed is the engine's input, and the engine's work is replayed as a CUDA graph.

All sessions work in the stream of all networks, one after another, and share one block of memory for activations; each
has weights, logits and graphs of its own.
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
"""The difference of a plan's logits from ONNX Runtime's, relative to the largest logit, from which it is refused.

What a library rounds is ten times smaller, and what it misreads, a layout or a type, is about as large as the logits.
"""
MOST_GRAPHS = 16
"""CUDA graphs that a session keeps, one for each address that batches come from: more than a run has buffers."""
WRONG_SHARE = 1 / 3
"""The share of photographs with another top-1 than ONNX Runtime's from which an int8 plan is refused."""

_log = logging.getLogger("bandlens")


def open_session(
    variant: Variant,
    batch: int,
    threads: int,  # noqa: ARG001 - a GPU has its own
    settings: str | None = None,
) -> TensorRTSession:
    """A session on the first GPU, of a TensorRT plan that was built for this very ONNX file, or is built now.

    `settings` are words of SETTINGS. By default they are those of the plan that is there, a tuned one before a plain
    one, and a plan that is built now is plain.
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
    """The TensorRT plan of a variant, found or built, and compared with ONNX Runtime."""
    with open_session(variant, batch, 0, settings) as session:
        return session.plan_path


def _compare(session: TensorRTSession, trt_plan: TrtPlan, onnx_file: OnnxFile) -> None:
    """Keep beside a new plan how far its logits lie from ONNX Runtime's; EngineError where the plan is wrong."""
    variant = session.variant
    images = photograph_crops(variant.model.image_size)
    content = onnx_for_tensorrt(onnx_file) if onnx_file.precision == "int8" else read_for_cpu(onnx_file)
    parity = measure_parity(onnx_logits(content, images), session.infer_all(images))
    if variant.precision == "int8":
        # Without VNNI, ONNX Runtime itself cuts off sums: then a difference says nothing.
        differs = parity.top1_disagreements > WRONG_SHARE * parity.images and not for_int8()
        is_right = parity.relative_difference < np.inf and not differs
    else:
        is_right = parity.relative_difference <= WRONG_DIFFERENCE[variant.precision]  # which NaN is not
    if not is_right:
        session.__exit__(None, None, None)
        raise EngineError(
            f"{variant}: {trt_plan.path} does not compute what ONNX Runtime does: {parity}; take another engine, and "
            "delete the plan to have it built anew"
        )
    record_parity(trt_plan, parity)


class Device:
    """The GPU, the library, and the memory for activations that all sessions share."""

    def __init__(self) -> None:
        self.gpu = usable(gpus())
        self.xp: ModuleType = arrays_of("tensorrt")
        self.stream = network_stream(self.xp)
        self.trt: TensorRT = load(TENSORRT)
        self.messages: list[str] = []
        """TensorRT's messages."""
        log: Any = trt_logger(self.trt)
        log.readers.append(self.messages)
        self.runtime = self.trt.Runtime(log)
        self.arena: Any = None
        """Memory for the activations of the session that runs. Nobody else may keep it, or it outlives its use."""
        self.grown = 0
        """The number of times that the arena has been replaced by a larger one."""
        self.sessions: WeakSet[TensorRTSession] = WeakSet()
        """The open sessions: the last one to close takes the arena along."""

    @property
    def size(self) -> int:
        """The bytes of the arena."""
        return int(self.arena.mem.size) if self.arena is not None else 0

    def reserve(self, size: int) -> None:
        """Make the shared memory at least so many bytes. Only in the stream of networks, whose pool orders its uses."""
        if self.size < size:
            self.arena = None  # before the larger one is asked for
            # Also where there is no room for that: graphs of other sessions must not write into what is gone.
            self.grown += 1
            self.arena = self.xp.cuda.alloc(size)

    def target(self, batch: int, settings: str) -> Target:
        """The target of a plan for this GPU and this library."""
        library = f"{self.trt.__name__} {self.trt.__version__}"
        return Target(library, f"{self.gpu.name} ({self.gpu.capability})", batch, settings)

    def error(self) -> str:
        """TensorRT's last error message."""
        return last_error(self.messages)


@cache
def tell_plain(reason: str) -> None:
    """Say once in a process, for each reason, that work is not replayed."""
    _log.warning("tensorrt asks for its work batch by batch, since no CUDA graph can be captured: %s", reason)


shared_device = cache(Device)
"""The device of all sessions in this process."""


class TensorRTSession(Session):
    def __init__(self, variant: Variant, trt_plan: TrtPlan, batch: int, device: Device) -> None:
        """Raises EngineError, and DeviceError out of memory."""
        self.variant, self._device, self.plan_path = variant, device, trt_plan.path
        size, xp = variant.model.image_size, device.xp
        self._shape = (batch, 3, size, size)
        self._engine = _load(variant, trt_plan, device)
        with self._errors_of_memory(), device.stream:  # CuPy hands out memory for the next work of this stream
            self._logits: Array = xp.empty((batch, variant.model.classes), dtype=xp.float32)
            device.reserve(self._engine.device_memory_size_v2)
        self._context = self._engine.create_execution_context(
            device.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._context is None:
            raise DeviceError(f"{variant}: TensorRT cannot run {trt_plan.path}: {device.error()}; try a smaller batch")
        self._context.set_tensor_address("logits", self._logits.data.ptr)
        self._grown = 0
        """The arena that the context was given, as the device counts."""
        self._graphs: dict[int, Callable[[], None]] = {}
        """Functions that replay the work on a batch, by the batch's address."""
        self._prepared, self._can_capture = False, GRAPHS in gpu_settings()
        device.sessions.add(self)
        versions = {device.trt.__name__: device.trt.__version__, "cupy": xp.__version__, "driver": device.gpu.driver}
        self.info = SessionInfo(device.gpu.name, batch, 0, json.dumps(versions | {"trt_plan": trt_plan.sha256}))

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:  # noqa: ARG002 - a plan is of one batch
        """Logits of one batch; the array is overwritten by the next call."""
        check_images(self.variant, images, self._shape)
        device = self._device
        with in_network_stream(device.xp):
            if self._grown != device.grown:
                with self._errors_of_memory():
                    device.reserve(self._engine.device_memory_size_v2)
                self._grown = device.grown
                self._context.set_device_memory(device.arena.ptr, device.size)
                self._graphs.clear()  # they write where the arena was
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
        """Capture the work on a batch as a CUDA graph, and give what replays it.

        None for the first batch, since TensorRT prepares itself then, which no graph may hold; and where the work
        cannot be captured, which a line in the log of `bandlens` says once. A GPU that has failed shows it next, since
        the plain work raises its error. BANDLENS_GPU_WITHOUT=graphs asks for plain work, and then there is no line.
        """
        if not (self._prepared and self._can_capture):
            return None
        if len(self._graphs) == MOST_GRAPHS:
            # Some may still be at work: CUDA frees such a graph once it has ended (cuGraphExecDestroy).
            self._graphs.clear()
        stream = self._device.stream
        try:
            # Another thread may ask CuPy for memory meanwhile. CuPy's mode is cudaStreamCaptureModeRelaxed by default,
            # which forbids neither that thread nor this one to allocate.
            stream.begin_capture()
            try:
                self._execute(images)
            except BaseException:
                with suppress(Exception):  # the capture is void, and its reason is about to be raised
                    stream.end_capture()
                raise
            replay = partial(stream.end_capture().launch, stream)
        except Exception as error:  # noqa: BLE001 - libraries have many, and the plain work tells if the GPU is lost
            self._can_capture = False
            tell_plain(first_line(error))
            return None
        self._graphs[images.data.ptr] = replay
        return replay

    def infer_all(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, classes) logits of any number of images in host memory, for comparisons."""
        xp, batch = self._device.xp, self._shape[0]
        logits = []
        for first in range(0, len(images), batch):
            rows = np.minimum(np.arange(first, first + batch), len(images) - 1)
            logits.append(to_numpy(self.infer(xp.asarray(np.ascontiguousarray(images[rows]))).copy()))
        self._graphs.clear()  # their batches are gone
        return np.concatenate(logits)[: len(images)]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with first_error(error):
            self._device.stream.synchronize()  # work that was asked for uses all of these
        # In this order: TensorRT wants a context gone before its engine.
        del self._graphs, self._context, self._engine, self._logits
        self._device.sessions.discard(self)
        if not self._device.sessions:
            self._device.arena = None


def _load(variant: Variant, trt_plan: TrtPlan, device: Device) -> tensorrt.ICudaEngine:
    engine = device.runtime.deserialize_cuda_engine(trt_plan.content)
    if engine is None:
        with gpu_errors():  # where the GPU is lost, this fails too, and nothing is wrong with the plan
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
