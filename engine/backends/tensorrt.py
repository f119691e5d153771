"""TensorRT: the batch that CuPy perturbed is the engine's input, and the engine's work is replayed as a CUDA graph.

The sessions of a lane share one stream and one block of memory for activations, so they run one after the other, and
beside those of another lane; each session has weights, logits and graphs of its own.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, SupportsFloat
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DeviceError, EngineError
from ...core.records import SessionInfo, Variant
from ...export.onnx.files import OnnxFile
from ...export.onnx.operations import operations_of_nodes
from ...export.onnx.parity import Parity, measure_parity
from ...export.onnx.precisions import read_for_cpu
from ...export.photographs import photograph_crops
from ...export.plans.build import LANES, WITHOUT, last_error, reading_log, refit
from ...export.plans.plans import (
    Target,
    TrtPlan,
    ensure_trt_plan,
    find_trt_plan,
    onnx_for_plan,
    onnx_for_tensorrt,
    record_parity,
    target_of,
)
from ...export.plans.types import TensorRT
from ...probes.arrays import Array, to_numpy
from ..device.devices import gpus
from ..device.graphs import Replays
from ..device.halves import normalize, shape_of_halves
from ..device.pixels import free_memory
from ..device.requirements import TENSORRT, TENSORRT_RTX, load, require_precision, usable
from ..device.streams import COMMITTED, first_error, gib, gpu_errors, in_turn, smaller_batch
from .base import ALL, arrays_of, check_images, plan_file_of
from .layers import RUNS, Layer
from .references import kept_logits

if TYPE_CHECKING:
    import tensorrt

LIBRARIES = {"tensorrt": TENSORRT, "tensorrt-rtx": TENSORRT_RTX}
WRONG = {"fp32": 1e-2, "fp16": 5e-2, "bf16": 3e-1}
"""The difference of a plan's logits from ONNX Runtime's, relative to the largest logit, from which it is refused.

What a library rounds is ten times smaller, and what it misreads, a layout or a type, is about as large as the logits.
An int8 plan's difference is kept and refuses nothing, since ONNX Runtime itself saturates on some processors.
"""
CLOSE = {"fp32": 1e-3, "fp16": 5e-3}
"""The largest difference of a refitted plan's logits from ONNX Runtime's, relative to the largest logit.

A refit can lose the bias of a product of matrices. EfficientNet-Lite0 without that of its classifier differs by 3e-2,
and in no top-1; two libraries that round to float16 alike, but add up in another order, by 1e-3 there and 4e-3 on
ResNet-50 with random weights. One refusal too many costs a plan of its own. int8 plans are not refitted: their scales
belong to the weights.
"""

_log = logging.getLogger("bandlens")


def open_session(
    variant: Variant,
    batch: int,
    threads: int,  # noqa: ARG001 - a GPU has its own
    lane: int = 0,
    normalized: bool = False,
) -> TensorRTSession:
    """A session on the first GPU, in one of its lanes; with `normalized`, of a plan that takes normalized images.

    It runs a TensorRT plan built for this very ONNX file; or else a refittable one that takes its weights, if it then
    computes what ONNX Runtime does; or else one that is built now. Which one, and why, goes to the log of `bandlens`.
    """
    device, onnx_file = device_of(variant.engine), plan_file_of(variant)
    place = device.lane(lane)
    require_precision(device.gpu, variant)
    target = replace(device.target(batch), normalized=normalized)
    trt_plan = find_trt_plan(onnx_file, target)
    if trt_plan is None and variant.precision in CLOSE:
        shared = find_trt_plan(onnx_file, replace(target, refit=True))
        if shared is not None and (session := _refitted(variant, onnx_file, shared, batch, place)) is not None:
            return session
    trt_plan = trt_plan or ensure_trt_plan(device.trt, onnx_file, target)
    session = TensorRTSession(variant, trt_plan, batch, place)
    if not trt_plan.compared:
        _compare(session, trt_plan, onnx_file)
    return session


def _compare(session: TensorRTSession, trt_plan: TrtPlan, onnx_file: OnnxFile) -> None:
    """Keep beside a new plan how far its logits lie from ONNX Runtime's; EngineError where the plan is wrong."""
    variant = session.variant
    parity = _measure_parity(session, onnx_file)
    if not parity.relative_difference <= WRONG.get(variant.precision, np.inf):  # NaN is refused too
        session.__exit__(None, None, None)
        raise EngineError(
            f"{variant}: {trt_plan.path} does not compute what ONNX Runtime does: {parity}; take another engine, and "
            "delete the plan to have it built anew"
        )
    record_parity(trt_plan, parity)


def _measure_parity(session: TensorRTSession, onnx_file: OnnxFile) -> Parity:
    """The distance of the session's logits on photographs from those of ONNX Runtime on the CPU."""
    images = photograph_crops(session.variant.model.image_size)
    content = onnx_for_tensorrt(onnx_file) if onnx_file.precision == "int8" else read_for_cpu(onnx_file)
    return measure_parity(kept_logits(onnx_file, content, images), session.infer_all(images))


def _refitted(
    variant: Variant, onnx_file: OnnxFile, trt_plan: TrtPlan, batch: int, lane: Lane
) -> TensorRTSession | None:
    """A session of the shared plan with these weights; None, and a warning, where it does not compute the same."""
    try:
        _, weights = onnx_for_plan(onnx_file, trt_plan.normalization is not None)
        session = TensorRTSession(variant, trt_plan, batch, lane, weights)
        parity = _measure_parity(session, onnx_file)
    except DeviceError:
        raise
    except EngineError as error:
        _log.warning("%s is not refitted: %s", variant, error)
        return None
    if parity.relative_difference <= CLOSE[variant.precision] and parity.top1_disagreements == 0:
        return session
    session.__exit__(None, None, None)  # the context before its engine
    _log.warning("%s is not refitted, since its plan would not compute what ONNX Runtime does: %s", variant, parity)
    return None


ITEMSIZES = {"FP16": 2, "Half": 2, "BF16": 2, "BFloat16": 2, "Int8": 1, "INT8": 1, "FP8": 1}
"""Bytes of a number by the words that the inspector has for its type; 4 otherwise."""


def profile_layers(variant: Variant, images: NDArray[np.float32], threads: int) -> list[Layer]:
    """The layers of the variant's plan, by TensorRT's profiler, with what its inspector says of each.

    A session replays them as a CUDA graph instead. Operations are those of the nodes of the ONNX file that a layer
    names; a node that several layers name counts in each. The plan is the one that normalizes its images itself, since
    its layers show what that costs.
    """
    with open_session(variant, len(images), threads) as session:
        times = session.profile(session._device.xp.asarray(images))
        layers = {layer["Name"]: layer for layer in session.inspect() if isinstance(layer, dict)}
    operations = operations_of_nodes(onnx_for_tensorrt(plan_file_of(variant)))
    return [
        _layer(name, median(runs[RUNS:]) / 1000, layers.get(name, {}), operations, len(images))
        for name, runs in times.items()
    ]


def _layer(name: str, seconds: float, about: Mapping[str, Any], operations: Mapping[str, float], batch: int) -> Layer:
    moved = 0
    for tensor in (*about.get("Inputs", ()), *about.get("Outputs", ())):
        words = f"{tensor.get('Format/Datatype', '')} {tensor.get('Datatype', '')}"
        size = next((size for word, size in ITEMSIZES.items() if word in words), 4)
        moved += size * math.prod(tensor["Dimensions"])
    weights = about.get("Weights", {})
    moved += ITEMSIZES.get(weights.get("Type", ""), 4) * weights.get("Count", 0)
    nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", about.get("Metadata", "")) or name.split(" + ")
    count = batch * sum(operations.get(node, 0) for node in dict.fromkeys(nodes))
    return Layer(name, about.get("LayerType", ""), seconds, moved, count)


class Device:
    """The GPU, the library and the lanes that all sessions of one library share."""

    def __init__(self, engine: str) -> None:
        self.gpu = usable(gpus())
        self.xp: ModuleType = arrays_of(engine)
        self.trt: TensorRT = load(LIBRARIES[engine])
        self.messages: list[str] = []
        """TensorRT's messages."""
        self._reading = ExitStack()
        self.runtime = self.trt.Runtime(self._reading.enter_context(reading_log(self.trt, self.messages)))
        self.lanes: list[Lane] = []
        """The lanes that sessions have been opened in."""

    def lane(self, number: int) -> Lane:
        """The lane of that number."""
        while len(self.lanes) <= number:
            self.lanes.append(Lane(self, len(self.lanes)))
        return self.lanes[number]

    def target(self, batch: int, *, refit: bool = False) -> Target:
        """The target of a plan for this GPU and this library."""
        gpu = self.gpu
        return target_of(self.trt, gpu.name, gpu.capability, batch, refit=refit, l2_bytes=gpu.l2_bytes)

    def error(self) -> str:
        """TensorRT's last error message."""
        return last_error(self.messages)


class Lane:
    """The stream and the memory that its sessions share; the work of two lanes goes on side by side."""

    def __init__(self, device: Device, number: int) -> None:
        self.device, self.number = device, number
        self.stream: Any = device.xp.cuda.Stream(non_blocking=True)
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
        """Make the shared memory at least so many bytes."""
        if self.arena is None or self.size < size:
            # Work that was asked for may still be in the old memory, whose blocks the pool hands out without waiting.
            self.stream.synchronize()
            self.arena = None  # before the larger one is asked for
            self.arena = self.device.xp.cuda.alloc(size)
            self.grown += 1


@cache
def device_of(engine: str) -> Device:
    """The device of the sessions of `tensorrt` or `tensorrt-rtx` in this process."""
    return Device(engine)


class TensorRTSession:
    """See `engine.backends.base.Session`."""

    def __init__(
        self, variant: Variant, trt_plan: TrtPlan, batch: int, lane: Lane, weights: bytes | None = None
    ) -> None:
        """`weights` is an ONNX file for a refittable plan. Raises EngineError, and DeviceError out of memory."""
        self.variant = variant
        device = lane.device
        self._lane, self.lane, self._device = lane, lane.number, device
        size, xp = variant.model.image_size, device.xp
        self._shape = (batch, 3, size, size)
        self.normalization = trt_plan.normalization
        self._engine = _load(variant, trt_plan, device)
        _check_ends(
            device.trt, self._engine, trt_plan, {"images": self._shape, "logits": (batch, variant.model.classes)}
        )
        if weights is not None:
            refit(device.trt, self._engine, weights, lane.stream.ptr)
        try:
            self._logits: Array = xp.empty((batch, variant.model.classes), dtype=xp.float32)
            lane.reserve(self._engine.device_memory_size_v2)
        except xp.cuda.memory.OutOfMemoryError as error:
            raise DeviceError(_no_room(variant, batch, self._engine.device_memory_size_v2, lane)) from error
        self._context = self._engine.create_execution_context(
            device.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._context is None:
            raise DeviceError(f"{variant}: TensorRT cannot run {trt_plan.path}: {device.error()}; try a smaller batch")
        self._context.set_tensor_address("logits", self._logits.data.ptr)
        self._grown = 0
        """The arena that the context was given, as the lane counts."""
        self._replays = Replays(variant.engine, self._execute, self.capture)
        lane.sessions.add(self)
        self.info = SessionInfo(
            device=device.gpu.name,
            batch=batch,
            threads=0,
            versions=json.dumps(
                {
                    device.trt.__name__: device.trt.__version__,
                    "cupy": xp.__version__,
                    "driver": device.gpu.driver,
                    "trt_plan": trt_plan.sha256,
                    "refitted": weights is not None,
                }
            ),
        )

    def infer(self, images: Array, rows: slice = ALL) -> Array:  # noqa: ARG002 - a plan is of one batch
        """Logits of one batch; the array is overwritten by the next call."""
        images, lane = self._input_of(images), self._lane
        with in_turn(self._device.xp, lane.stream):
            if self._grown != lane.grown:
                self._grown = lane.grown
                self._context.set_device_memory(lane.arena.ptr, lane.size)
                self._replays.forget()
            self._replays(images)
        return self._logits

    def _input_of(self, images: Array) -> Array:
        """A batch as the plan takes it: images, or their halves, which are made here unless the caller made them."""
        if self.normalization is not None and images.dtype == "uint16":
            check_images(self.variant, images, shape_of_halves(self._shape), "uint16")
            return images
        check_images(self.variant, images, self._shape)
        if self.normalization is None:
            return images
        return normalize(self._device.xp, images, self.normalization)

    def _execute(self, images: Array) -> None:
        self._context.set_tensor_address("images", images.data.ptr)
        if not self._context.execute_async_v3(self._lane.stream.ptr):
            raise DeviceError(f"{self.variant}: TensorRT failed: {self._device.error()}; {COMMITTED}")

    def capture(self, images: Array) -> Callable[[], None]:
        """Capture the work on a batch as a CUDA graph in the session's stream, after `infer`; gives what replays it.

        Raises EngineError, or what TensorRT raises, where it cannot be captured.
        """
        stream = self._lane.stream
        capturable = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX has it
        if capturable and not capturable(stream.ptr):
            raise EngineError("its context cannot be captured")
        with stream:
            # Another thread may ask CuPy for memory meanwhile. CuPy's mode is cudaStreamCaptureModeRelaxed by default,
            # which forbids neither that thread nor this one to allocate.
            stream.begin_capture()
            try:
                self._execute(images)
            except BaseException:
                with suppress(Exception):  # the capture is void, and its reason is about to be raised
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        return partial(graph.launch, stream)

    def profile(self, images: Array) -> dict[str, list[float]]:
        """Milliseconds of each layer in each of some runs of a batch, which lies on the card."""
        base: Any = self._device.trt.IProfiler
        times: dict[str, list[float]] = {}

        class Profiler(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def report_layer_time(self, layer_name: str, ms: SupportsFloat) -> None:
                times.setdefault(layer_name, []).append(float(ms))

        images = self._input_of(images)
        self.infer(images)  # the context has its memory from then on
        self._context.profiler = Profiler()
        for _ in range(2 * RUNS):
            self._execute(images)
            self._lane.stream.synchronize()
        return times

    def inspect(self) -> list[Any]:
        """The descriptions of the plan's layers by TensorRT's inspector; of a plan without details, their names."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        text = inspector.get_engine_information(self._device.trt.LayerInformationFormat.JSON)
        layers: list[Any] = json.loads(text)["Layers"]
        return layers

    def infer_all(self, images: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(n, classes) logits of any number of images in host memory, for comparisons."""
        xp, batch = self._device.xp, self._shape[0]
        logits = []
        for first in range(0, len(images), batch):
            rows = np.minimum(np.arange(first, first + batch), len(images) - 1)
            logits.append(to_numpy(self.infer(xp.asarray(np.ascontiguousarray(images[rows]))).copy()))
        self._replays.forget()  # their batches are gone
        return np.concatenate(logits)[: len(images)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with first_error(error):
            self._lane.stream.synchronize()  # work that was asked for uses all of these
        # In this order: TensorRT wants a context gone before its engine.
        del self._replays, self._context, self._engine, self._logits
        self._lane.sessions.discard(self)
        if not self._lane.sessions:
            self._lane.arena = None


def _load(variant: Variant, trt_plan: TrtPlan, device: Device) -> tensorrt.ICudaEngine:
    engine = device.runtime.deserialize_cuda_engine(trt_plan.content)
    if engine is None:
        with gpu_errors():  # where the GPU is lost, this fails too, and nothing is wrong with the plan
            free = free_memory(device.xp)
        if "memory" in device.error().lower():
            raise DeviceError(
                f"{variant}: no room on the GPU for its weights, and {gib(free)} are free: {device.error()}; run fewer "
                "checkpoints at a time"
            )
        raise EngineError(
            f"{trt_plan.path}: TensorRT cannot load the plan: {device.error()}; delete it, and the next run builds it "
            "anew"
        )
    return engine


def _check_ends(
    trt: TensorRT, engine: tensorrt.ICudaEngine, trt_plan: TrtPlan, shapes: dict[str, tuple[int, ...]]
) -> None:
    """EngineError unless the engine takes and gives these shapes, in float32 as CuPy's arrays lie, or its halves."""
    floats = (trt.DataType.FLOAT, trt.TensorFormat.LINEAR)
    halves = {"fp16": (trt.DataType.HALF, trt.TensorFormat.HWC8), "bf16": (trt.DataType.BF16, trt.TensorFormat.HWC8)}
    kind = floats if trt_plan.normalization is None else halves[trt_plan.normalization.precision]
    expected = {name: (shape, *(kind if name == "images" else floats)) for name, shape in shapes.items()}
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    ends = {
        name: (tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name), engine.get_tensor_format(name))
        for name in names
    }
    if ends != expected:
        raise EngineError(
            f"{trt_plan.path} takes and gives {_words_of(ends)} instead of {_words_of(expected)}; delete it, and the "
            "next run builds it anew"
        )


def _words_of(ends: Mapping[str, tuple[tuple[int, ...], object, object]]) -> str:
    return ", ".join(f"{name} {shape} {dtype} {layout}" for name, (shape, dtype, layout) in ends.items())


def _no_room(variant: Variant, batch: int, needed: int, lane: Lane) -> str:
    free = free_memory(lane.device.xp)
    beside = sum(other.size for other in lane.device.lanes if other is not lane)  # it would shrink with the batch, too
    at_a_time = f" beside {gib(beside)} of a second network" if beside else ""
    instead = f", or {WITHOUT}={LANES} for one network at a time" if beside else ""
    return (
        f"{variant}: out of memory on the GPU: a batch of {batch} takes {gib(needed)}{at_a_time}, and "
        f"{gib(free)} are free; {smaller_batch(batch, (free + beside) / (needed + beside))}{instead}"
    )
