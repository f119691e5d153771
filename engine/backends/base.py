"""The protocol of sessions, and the engines that make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError, UnknownName, UsageError
from ...core.extras import naming_extras
from ...core.records import Condition, Model, SessionInfo, Variant
from ...export.model_files import FUNCTION, OnnxFile, load_onnx_file, read_onnx_file
from ...probes.arrays import Array, array_module


@dataclass(frozen=True, slots=True)
class Engine:
    """An inference library on a kind of device."""

    module: str
    """A module of this folder: its `open_session(variant, batch, threads)` makes sessions."""
    arrays: str
    """The array module whose batches its sessions take."""
    precisions: Mapping[str, str]
    """Each precision that it runs, and the precision of the ONNX file that it runs it from."""


FLOATS = {"fp32": "fp32", "fp16": "fp16"}
ENGINES = {
    "onnxruntime": Engine("onnxruntime", "numpy", {"fp32": "fp32", "int8": "int8"}),
    "openvino": Engine("openvino", "numpy", {"fp32": "fp32", "bf16": "fp32", "int8": "int8"}),
    "onnxruntime-cuda": Engine("onnxruntime", "cupy", FLOATS),
    "tensorrt": Engine("tensorrt", "cupy", {**FLOATS, "bf16": "fp32", "int8": "int8"}),
    "torch": Engine("torch", "numpy", {**FLOATS, "bf16": "fp32"}),
    "torch-cuda": Engine("torch", "cupy", {**FLOATS, "bf16": "fp32"}),
    FUNCTION: Engine("function", "numpy", {"fp32": "fp32"}),
}
ATTACKERS = {"numpy": "torch", "cupy": "torch-cuda"}
"""The engine that attacks, by the array module of the engine that runs the rest of the study."""
BATCH = {"numpy": 32, "cupy": 256}
"""The batch of a study that names none, by the array module: a GPU takes a larger one to be busy."""


ALL_ROWS = slice(None)
"""All rows of a batch."""


class Session(Protocol):
    """One variant of a model, loaded at one fixed batch shape. A context manager."""

    variant: Variant
    info: SessionInfo

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:
        """Logits, (batch, classes) float32, of (batch, 3, size, size) float32 RGB in [0, 1].

        Logits outside of `rows` may be anything: an engine that runs a batch by parts runs only those with such a row.
        Both are arrays of the engine's array module. The logits belong to the session: its next call overwrites them.
        On a GPU the work goes into the stream of all networks, ordered with the caller's current stream, and may go on
        when this returns.
        """
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None: ...


@runtime_checkable
class Attacker(Session, Protocol):
    """A session that has gradients. It keeps no array for its results: what it gives is the caller's."""

    def attacked(
        self,
        condition: Condition,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int32] | None,
        start: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """(n, classes) logits of the images that the attack makes of (n, 3, size, size) pixels, all in host memory.

        n is the session's batch at most. Without labels the attack leads away from the classes that the network gives
        the pixels themselves. `start` is (n, 3, size, size) in [-1, 1]: where in the ball to begin, in units of eps.
        """
        ...

    def gradients(self, pixels: NDArray[np.uint8], labels: NDArray[np.int32] | None) -> NDArray[np.float32]:
        """(n, 3, size, size): gradients of cross entropies by pixels in [0, 1]; n and labels are as in `attacked`."""
        ...

    def step_seconds(self, gradients: str = "fp32") -> float:
        """Seconds that a step of an attack takes for an image, with gradients of that precision, measured now."""
        ...


def engine_of(name: str) -> Engine:
    """The engine by name, or UnknownName."""
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    return ENGINES[name]


def variant_of(model: Model, engine: str, precision: str) -> Variant:
    """The variant that the engine runs of the model at that precision.

    A finished file that computes in fp16 or int8 runs so instead of in fp32, where the engine has that precision.
    Elsewhere its float16 numbers are computed with in float32.

    Raises UnknownName for an engine that there is not, UsageError for a precision that it does not have, and
    ExportError where the ONNX file of the precision has not been made.
    """
    precisions = engine_of(engine).precisions
    if precision not in precisions:
        arrays = engine_of(engine).arrays
        engines = [name for name, row in ENGINES.items() if row.arrays == arrays and precision in row.precisions]
        advice = f", or engine to {' or '.join(engines)} for {precision}" if engines else ""
        raise UsageError(
            f"engine {engine} runs {', '.join(precisions)}, not {precision}; set precision to one of them{advice}"
        )
    if (engine == FUNCTION) != (model.architecture == FUNCTION):
        kind = "a function" if model.architecture == FUNCTION else "no function"
        raise UsageError(f"{model.name} is {kind}, and engine {FUNCTION} runs functions alone; make a study of each")
    onnx_file = load_onnx_file(model, precisions[precision])
    if precision == "fp32" and onnx_file.precision in precisions:
        precision = onnx_file.precision
    return Variant(model, engine, precision, onnx_file.path, onnx_file.sha256)


def attack_variant(model: Model, engine: str) -> Variant:
    """The variant that is attacked where a study runs on that engine: fp32 in torch, on the same kind of device."""
    return variant_of(model, ATTACKERS[engine_of(engine).arrays], "fp32")


def onnx_file_of(variant: Variant) -> OnnxFile:
    """The ONNX file of the variant."""
    precision = ENGINES[variant.engine].precisions[variant.precision]
    return OnnxFile(precision, variant.path, variant.sha256, variant.model.path.parent)


def plan_file_of(variant: Variant) -> OnnxFile:
    """The ONNX file of the variant at the precision of its TensorRT plan, which bf16 has no file of."""
    return replace(onnx_file_of(variant), precision=variant.precision)


def content_of(variant: Variant) -> bytes:
    """The ONNX file of the variant, if it still is the one that was named; ExportError otherwise."""
    return read_onnx_file(onnx_file_of(variant))


def check_images(variant: Variant, images: Array, shape: tuple[int, ...]) -> None:
    """EngineError unless `images` are contiguous and of that shape: a session reads them where they lie."""
    if images.shape != shape or images.dtype != "float32" or not images.flags.c_contiguous:
        raise EngineError(
            f"{variant}: got {images.dtype} images of shape {images.shape}; "
            f"this session takes contiguous float32 of shape {shape}"
        )


PART = 4
"""The most images that a thread of a CPU runs at once."""
WHOLE_BATCH_OPERATOR = b"DynamicQuantizeLinear"
"""An operator that scales integers by the values of the whole batch, so that every image depends on the others."""


def part_of(content: bytes, batch: int, threads: int) -> int:
    """The number of images that a thread of a CPU runs at once: the largest divisor of the batch that suits.

    Threads share a batch by such parts, and each runs the whole network on one. A part's activations stay in the
    thread's cache, and no layer waits for all threads, as it does where they share each layer: docs/decisions/0030.
    """
    if WHOLE_BATCH_OPERATOR in content:
        return batch
    return max(size for size in range(1, PART + 1) if batch % size == 0 and (size == 1 or size * threads <= batch))


def parts_with(rows: slice, batch: int, size: int) -> slice:
    """The range of the parts, of `size` images each, that hold these rows of a batch."""
    first, last, _ = rows.indices(batch)
    return slice(first // size, -(-last // size))


def arrays_of(engine: str) -> ModuleType:
    """The array module whose batches the engine's sessions take; EngineError where it cannot be used here."""
    return array_module(engine_of(engine).arrays)


def open_session(variant: Variant, batch: int, threads: int, **options: Any) -> Session:
    """A session of the variant; EngineError when it cannot run as asked. Nothing falls back.

    `threads` are those of a CPU; a GPU does without them. `options` are those of an engine alone.
    """
    with naming_extras(f"engine {variant.engine}", EngineError):
        module = import_module(f".{engine_of(variant.engine).module}", __package__)
    return cast(Session, module.open_session(variant, batch, threads, **options))


def open_attacker(variant: Variant, batch: int, threads: int) -> Attacker:
    """`open_session` of a variant that is to be attacked; EngineError where its engine has no gradients."""
    session = open_session(variant, batch, threads)
    if not isinstance(session, Attacker):
        raise EngineError(f"{variant}: its engine has no gradients; attack it with {' or '.join(ATTACKERS.values())}")
    return session


# Whether an engine multiplies int8 as its ONNX file says. Without VNNI, x86 processors multiply uint8 by int8 in pairs
# whose sum is cut to 16 bits, and a library that lets them do so computes something else: with OpenVINO, one in twelve
# predictions of EfficientNet-Lite0 changed. Sums that are not cut are the same integers everywhere.

LARGEST_ACTIVATION, LARGEST_WEIGHT = 255, 127
INT8_SHAPE = (1, 64, 4, 4)
"""The shape of `images`: as many channels as the kernels for real networks are made for."""

Int8Run = Callable[[bytes, NDArray[np.float32]], NDArray[np.float32]]
"""The `logits` of an ONNX file for `images`."""


def multiplies_exactly(run: Int8Run) -> bool:
    """Whether a quantized convolution whose activations and weights are all as large as can be gives the right sums."""
    logits = run(_largest_products(), np.full(INT8_SHAPE, LARGEST_ACTIVATION, np.float32))
    return bool((logits == INT8_SHAPE[1] * LARGEST_ACTIVATION * LARGEST_WEIGHT).all())


def _largest_products() -> bytes:
    """A convolution of 1 x 1 pixels between uint8 images and int8 weights, each with scale 1.

    Its sums are quantized, with the largest that uint8 has for their own: ONNX Runtime leaves others in float32.
    """
    import onnx.parser
    from onnx import numpy_helper

    channels = INT8_SHAPE[1]
    constants: dict[str, NDArray[Any]] = {
        "one": np.ones((), np.float32),
        "zero": np.zeros((), np.uint8),
        "weights": np.full((channels, channels, 1, 1), LARGEST_WEIGHT, np.int8),
        "ones": np.ones(channels, np.float32),
        "zeros": np.zeros(channels, np.int8),
        "step": np.array(channels * LARGEST_WEIGHT, np.float32),
    }
    shape = f"float{list(INT8_SHAPE)}"
    text = f"""<ir_version: 8, opset_import: ["": 17]> largest_products ({shape} images) => ({shape} logits) {{
        quantized = QuantizeLinear (images, one, zero)
        activations = DequantizeLinear (quantized, one, zero)
        kernel = DequantizeLinear <axis = 0> (weights, ones, zeros)
        sums = Conv (activations, kernel)
        steps = QuantizeLinear (sums, step, zero)
        logits = DequantizeLinear (steps, step, zero)
    }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return bytes(model.SerializeToString())
