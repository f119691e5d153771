"""TensorRT's runtime without a GPU: a plan is an ONNX file, and ONNX Runtime computes what the card would.

What a session may get wrong stays what it is: addresses, shapes, memory that is too small, work that is captured. Plans
are really built, by TensorRT-RTX, in tests/models.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import onnx
import onnxruntime
from deferred_card import STREAMS, CudaError, DeferredCard
from numpy.typing import NDArray

from bandlens.export.onnx.fp16 import HALVES, emulate_in_fp32

MARK = b"PLAN"
MEMORY = 4 * 3 * 128 * 128
"""Bytes of activations an image of 128 pixels: they are the image itself."""
WORK_SECONDS = 1e-6
"""Seconds that half of the work on a batch takes."""


def pretend_plan(_trt: Any, content: bytes, batch: int, **options: Any) -> bytes:
    """This stands in place of `export.plans.plan_builder.build_trt_plan`."""
    options["lines"].append("INFO: pretended")
    return b"%s %d " % (MARK, batch) + content


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass


class Engine:
    def __init__(self, content: bytes, batch: int) -> None:
        if any(tensor.data_type in HALVES for tensor in onnx.load_from_string(content).graph.initializer):
            # The CPU has no arithmetic in bfloat16, and leaves out casts to float16.
            content = emulate_in_fp32(content)
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.batch = batch
        self.device_memory_size_v2 = 4 * int(np.prod(self.get_tensor_shape("images")))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        ends = (*self.session.get_inputs(), *self.session.get_outputs())
        return (self.batch, *next(end for end in ends if end.name == name).shape[1:])

    def create_execution_context(self, strategy: str) -> Context:
        assert strategy == "mine"
        return Context(self)


class Context:
    broken = False
    """Whether work fails."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        if self.broken or self.memory is None or self.memory[1] < self.engine.device_memory_size_v2:
            return False
        shape = self.engine.get_tensor_shape("images")
        images, activations = array_at(self.addresses["images"], shape), array_at(self.memory[0], shape)
        logits = array_at(self.addresses["logits"], self.engine.get_tensor_shape("logits"))
        context = ref(self)

        def ends() -> None:
            if (owner := context()) is None:
                raise CudaError("a context was destroyed while it ran")
            logits[...] = owner.engine.session.run(None, {"images": activations})[0]

        STREAMS[stream].put(lambda: np.copyto(activations, images), WORK_SECONDS)
        STREAMS[stream].put(ends, WORK_SECONDS)
        return True


def array_at(address: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """The array that lies at an address, whoever owns it."""
    numbers = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(numbers, tuple(shape))


class Runtime:
    def __init__(self, card: DeferredCard, log: Logger) -> None:
        self.card, self.log = card, log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if self.card.lost:
            self.log.log(Severity(), "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
            return None
        mark, batch, content = plan.split(b" ", 2) if plan.count(b" ") > 1 else (b"", b"0", b"")
        if mark != MARK:
            self.log.log(Severity(), "the plan is of another TensorRT")
            return None
        return Engine(content, int(batch))


class Severity(int):
    name = "ERROR"

    def __new__(cls) -> Severity:
        return super().__new__(cls, Logger.ERROR)


def pretend_tensorrt(card: DeferredCard) -> ModuleType:
    """The module, on that card."""
    module = ModuleType("tensorrt")
    vars(module).update(
        __version__="10.0",
        ILogger=Logger,
        Runtime=partial(Runtime, card),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="mine"),
    )
    return module
