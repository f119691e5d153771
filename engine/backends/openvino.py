"""Run models in OpenVINO on the CPU, in fp32, bf16 or int8.

The batch size is fixed, and images are read without a copy.

A session either runs at the precision of its variant or is not opened. By default OpenVINO uses bf16 on every processor
that supports it, and silently uses another precision if the requested one is not supported.
"""

from __future__ import annotations

import ctypes
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError
from ...core.records import SessionInfo, Variant
from ...export.onnx.parity import split_batches
from ..device.requirements import OPENVINO, load
from .base import ALL_ROWS, Session, check_images, content_of, multiplies_exactly, part_of, parts_with


@dataclass(frozen=True, slots=True)
class Precision:
    """A precision in OpenVINO's terms."""

    hint: str
    """Data type in which OpenVINO may compute what is float32 in the ONNX file."""
    executed: frozenset[str]
    """Data types that the multiplications of the compiled model may report."""


PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision("f32", frozenset({"f32"})),
    "bf16": Precision("bf16", frozenset({"bf16"})),
    # Layers that are not quantized stay in float32. There are few of them, so bf16 would not be faster.
    "int8": Precision("f32", frozenset({"u8", "i8"})),
}
MULTIPLICATIONS = ("Convolution", "FullyConnected", "MatMul")
"""Layer types whose executed precision is checked."""


class OpenVinoSession(Session):
    """A session of OpenVINO."""

    _resident: ClassVar[OpenVinoSession | None] = None
    """The session whose activations are in memory.

    It releases them when another session runs. Otherwise each of, for example, 48 ResNet-50 sessions would keep its
    own.
    """

    def __init__(self, variant: Variant, batch: int, threads: int) -> None:
        ov = _openvino()
        self.variant = variant
        self._shape = (batch, 3, variant.model.image_size, variant.model.image_size)
        content = content_of(variant)
        self._part = part_of(content, batch, threads)
        settings = _settings(PRECISIONS[variant.precision], threads, max(1, min(threads, batch // self._part)))
        self._compiled = _compile(variant, content, (self._part, *self._shape[1:]), settings)
        self._requests = [self._compiled.create_infer_request() for _ in range(batch // self._part)]
        self._logits = np.empty((batch, variant.model.classes), np.float32)
        for request, part in zip(self._requests, split_batches(self._logits, self._part), strict=True):
            request.set_output_tensor(ov.Tensor(part, shared_memory=True))
        self.info = SessionInfo(
            device=_core().get_property("CPU", "FULL_DEVICE_NAME"),
            batch=batch,
            threads=self._compiled.get_property("INFERENCE_NUM_THREADS"),
            versions=json.dumps({"openvino": ov.__version__, "numpy": np.__version__}),
        )

    def infer(self, images: NDArray[np.float32], rows: slice = ALL_ROWS) -> NDArray[np.float32]:
        """Compute the logits of one batch. The next call overwrites the returned array."""
        check_images(self.variant, images, self._shape)
        resident, OpenVinoSession._resident = OpenVinoSession._resident, self
        if resident is not None and resident is not self:
            resident._compiled.release_memory()
            _trim_memory()
        try:
            for request, part in zip(self._requests, split_batches(images, self._part), strict=True):
                request.set_input_tensor(_openvino().Tensor(part, shared_memory=True))
            # Wait for all requests, after an error or Ctrl-C as well, because they read the images and write the
            # logits.
            with ExitStack() as waits:
                for request in self._requests[parts_with(rows, self.info.batch, self._part)]:
                    request.start_async()
                    waits.callback(request.wait)
        except Exception as error:
            raise EngineError(f"{self.variant}: OpenVINO failed: {_reason(error)}; try a smaller batch") from error
        return self._logits

    def __exit__(self, *error: object) -> None:
        if OpenVinoSession._resident is self:
            OpenVinoSession._resident = None
        del self._requests, self._compiled


open_session = OpenVinoSession
"""Open a session, see `OpenVinoSession`."""


def _trim_memory() -> None:
    """Return freed memory to the operating system.

    The threads of another session cannot reuse memory that the allocator keeps for the threads of this one.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # only glibc has this function
        trim(0)


@cache
def _openvino() -> Any:
    return load(OPENVINO)


@cache
def _core() -> Any:
    return _openvino().Core()


def _settings(precision: Precision, threads: int, streams: int = 1) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision.hint,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        # Every process would pin its threads to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def _compile(variant: Variant, content: bytes, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Any:
    """Compile the ONNX file for this batch shape. Raises EngineError unless it runs at the variant's precision."""
    _check_processor(variant)
    try:
        model = _core().read_model(content)
        quantized = _quantized_weights(model)
        model.reshape(shape)
        compiled = _core().compile_model(model, "CPU", settings)
    except Exception as error:
        raise EngineError(
            f"{variant.path}: OpenVINO cannot open it: {_reason(error)}; run it with engine onnxruntime, or export "
            f"{variant.model.name} again"
        ) from error
    _check_executed(variant, compiled, PRECISIONS[variant.precision], quantized)
    return compiled


def _check_processor(variant: Variant) -> None:
    """Raise EngineError if the processor does not support the precision."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if variant.precision.upper() not in capabilities:
        raise EngineError(
            f"{variant}: this processor has no {variant.precision}, only {', '.join(capabilities)}; take fp32"
        )
    if variant.precision == "int8" and not _multiplies_exactly():
        raise EngineError(
            f"{variant}: on this processor OpenVINO's int8 saturates at 16 bits (it has no VNNI), so predictions would "
            "differ from those of other machines; run int8 with engine onnxruntime, or take fp32"
        )


@cache
def _multiplies_exactly() -> bool:
    """Return whether OpenVINO computes int8 exactly on this processor."""

    def run(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
        compiled = _core().compile_model(_core().read_model(content), "CPU", _settings(PRECISIONS["int8"], 1))
        return np.array(compiled.create_infer_request().infer({0: images})[0])

    return multiplies_exactly(run)


def _quantized_weights(model: Any) -> int:
    """Count the multiplications with int8 weights in the model."""
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    return sum(op.get_element_type().get_type_name() == "i8" and len(op.get_output_shape(0)) > 1 for op in constants)


def _check_executed(variant: Variant, compiled: Any, precision: Precision, quantized: int) -> None:
    """Raise EngineError unless multiplications run at the precision: all of them, or for int8 those that are quantized.

    A model without multiplications is rejected, because nothing shows at which precision it runs.
    """
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    counts = Counter(
        info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) in MULTIPLICATIONS
    )
    if not counts:
        raise EngineError(
            f"{variant}: OpenVINO finds no convolution and no matrix product in this network, by whose arithmetic "
            "bandlens checks the precision that runs; run the network with engine onnxruntime or torch"
        )
    at_precision = sum(count for name, count in counts.items() if name in precision.executed)
    expected = quantized if variant.precision == "int8" else counts.total()
    if hint != precision.hint or at_precision < max(expected, 1):
        summary = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise EngineError(
            f"{variant}: OpenVINO runs its convolutions and matrix products otherwise ({summary}, the "
            f"rest in {hint}); take another precision, or engine onnxruntime"
        )


def _reason(error: Exception) -> str:
    """Format an error as one line, without the locations in OpenVINO's source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    messages = [line for line in lines if not line.startswith(("Exception from ", "Check "))] or lines
    details = [line.removeprefix("-- ") for line in messages if line.startswith("-- ")]
    return " ".join(details or messages[:2]) or type(error).__name__
