"""Define the interface of sessions and the table of engines, and open sessions."""

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
    """An inference library on one kind of device."""

    module: str
    """Module of this package whose `open_session(variant, batch, threads)` opens sessions."""
    arrays: str
    """Name of the array module, `numpy` or `cupy`, of the batches that its sessions accept."""
    precisions: Mapping[str, str]
    """Maps each supported precision to the precision of the ONNX file that is loaded for it."""


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
"""Engine that computes attacks, by the array module of the engine that runs the rest of the study."""
BATCH = {"numpy": 32, "cupy": 256}
"""Default batch size, by array module. A GPU needs larger batches to be fully used."""


ALL_ROWS = slice(None)
"""All rows of a batch."""


class Session(Protocol):
    """One variant of a model, loaded for one fixed batch shape. A context manager."""

    variant: Variant
    info: SessionInfo

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:
        """Compute the logits of a batch.

        On a GPU the work is launched in the stream that all models share, ordered with the caller's current stream, and
        may still be running when this returns.

        Args:
            images: (batch, 3, size, size) float32, RGB in [0, 1], in the engine's array module.
            rows: Rows whose logits are needed. Engines that split a batch into micro-batches skip those without such a
                row, so that logits of other rows are undefined.

        Returns:
            (batch, classes) float32 in the engine's array module. The array belongs to the session, and the next call
            overwrites it.
        """
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None: ...


@runtime_checkable
class Attacker(Session, Protocol):
    """A session that can compute gradients. The arrays it returns belong to the caller and are not overwritten."""

    def attacked(
        self,
        condition: Condition,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int32] | None,
        start: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Attack the images and return the logits of the adversarial images.

        All arrays are in host memory.

        Args:
            condition: The attack and its parameters.
            pixels: (n, 3, size, size) uint8 clean images. n is at most the batch size of the session.
            labels: (n,) classes whose cross-entropy the attack maximizes. If None, the classes that the model predicts
                for the clean images.
            start: (n, 3, size, size) float32 in [-1, 1]. Starting point inside the ball of radius eps, in units of eps.

        Returns:
            (n, classes) float32 logits.
        """
        ...

    def gradients(self, pixels: NDArray[np.uint8], labels: NDArray[np.int32] | None) -> NDArray[np.float32]:
        """Compute the gradient of the cross-entropy with respect to the pixel values in [0, 1].

        Args:
            pixels: As in `attacked`.
            labels: As in `attacked`.

        Returns:
            (n, 3, size, size) float32.
        """
        ...

    def step_seconds(self, gradients: str = "fp32") -> float:
        """Measure the time of one attack step per image, in seconds, with gradients of the given precision."""
        ...


def engine_of(name: str) -> Engine:
    """Return the engine with this name, or raise UnknownName."""
    if name not in ENGINES:
        raise UnknownName("engine", name, ENGINES)
    return ENGINES[name]


def variant_of(model: Model, engine: str, precision: str) -> Variant:
    """Return the variant that the engine runs for the model at that precision.

    A model that was imported as an fp16 or int8 ONNX file runs at that precision instead of fp32 if the engine supports
    it. If the engine does not support it, the float16 values of the file are computed in float32.

    Raises:
        UnknownName: If there is no such engine.
        UsageError: If the engine does not support the precision.
        ExportError: If the ONNX file for the precision has not been exported.
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
    """Return the variant that is attacked in a study on that engine: fp32 in torch, on the same kind of device."""
    return variant_of(model, ATTACKERS[engine_of(engine).arrays], "fp32")


def onnx_file_of(variant: Variant) -> OnnxFile:
    """Return the ONNX file of the variant."""
    precision = ENGINES[variant.engine].precisions[variant.precision]
    return OnnxFile(precision, variant.path, variant.sha256, variant.model.path.parent)


def plan_file_of(variant: Variant) -> OnnxFile:
    """Return the ONNX file of the variant with the precision of its TensorRT plan.

    The two precisions differ for bf16, which is built from the fp32 file.
    """
    return replace(onnx_file_of(variant), precision=variant.precision)


def content_of(variant: Variant) -> bytes:
    """Load the ONNX file of the variant. Raises ExportError if its content has changed since it was selected."""
    return read_onnx_file(onnx_file_of(variant))


def check_images(variant: Variant, images: Array, shape: tuple[int, ...]) -> None:
    """Raise EngineError unless `images` are contiguous float32 of that shape.

    Sessions access the memory of the array directly, so that neither a copy nor a conversion takes place.
    """
    if images.shape != shape or images.dtype != "float32" or not images.flags.c_contiguous:
        raise EngineError(
            f"{variant}: got {images.dtype} images of shape {images.shape}; "
            f"this session takes contiguous float32 of shape {shape}"
        )


PART = 4
"""Maximum number of images per micro-batch."""
WHOLE_BATCH_OPERATOR = b"DynamicQuantizeLinear"
"""Operator that computes one quantization scale for the whole batch.

The result of an image then depends on the other images, so the batch must not be split.
"""


def part_of(content: bytes, batch: int, threads: int) -> int:
    """Return the number of images per micro-batch, the images that one CPU thread runs at once.

    It is the largest divisor of the batch size, up to `PART`, that leaves at least one micro-batch for each thread.

    Each thread runs the whole model on its own micro-batches. The activations of a micro-batch stay in the cache of the
    thread, and threads do not wait for each other after each layer, as they would if they shared the layers. See
    docs/decisions/0030.
    """
    if WHOLE_BATCH_OPERATOR in content:
        return batch
    return max(size for size in range(1, PART + 1) if batch % size == 0 and (size == 1 or size * threads <= batch))


def parts_with(rows: slice, batch: int, size: int) -> slice:
    """Return the range of micro-batches, of `size` images each, that contain these rows of a batch."""
    first, last, _ = rows.indices(batch)
    return slice(first // size, -(-last // size))


def arrays_of(engine: str) -> ModuleType:
    """Import the array module of the engine. Raises EngineError if it cannot be used here."""
    return array_module(engine_of(engine).arrays)


def open_session(variant: Variant, batch: int, threads: int, **options: Any) -> Session:
    """Open a session of the variant.

    There is no fallback: if the engine cannot run the variant as requested, an error is raised.

    Args:
        variant: The model, engine and precision.
        batch: Batch size.
        threads: Number of CPU threads. Ignored on a GPU.
        options: Additional options of the engine.

    Raises:
        EngineError: If the engine cannot run the variant as requested.
        DeviceError: If the GPU fails or is out of memory.
    """
    with naming_extras(f"engine {variant.engine}", EngineError):
        module = import_module(f".{engine_of(variant.engine).module}", __package__)
    return cast(Session, module.open_session(variant, batch, threads, **options))


def open_attacker(variant: Variant, batch: int, threads: int) -> Attacker:
    """Open a session that can compute attacks. Raises EngineError if the engine has no gradients."""
    session = open_session(variant, batch, threads)
    if not isinstance(session, Attacker):
        raise EngineError(f"{variant}: its engine has no gradients; attack it with {' or '.join(ATTACKERS.values())}")
    return session


# Test whether an engine computes int8 exactly. x86 processors without VNNI multiply uint8 by int8 in pairs, and the sum
# of a pair saturates at 16 bits. A library that uses these instructions without precautions computes wrong results:
# with OpenVINO, one in twelve predictions of EfficientNet-Lite0 changed. Without saturation the sums are integers,
# which are the same on every machine.

LARGEST_ACTIVATION, LARGEST_WEIGHT = 255, 127
"""Largest values of uint8 activations and int8 weights."""
INT8_SHAPE = (1, 64, 4, 4)
"""Shape of the input of the test model.

The number of channels is typical of real models, so that the library selects the same kernels as for them.
"""

Int8Run = Callable[[bytes, NDArray[np.float32]], NDArray[np.float32]]
"""Runs an ONNX file on images and returns its output."""


def multiplies_exactly(run: Int8Run) -> bool:
    """Return whether a quantized convolution is exact if all activations and weights are as large as possible."""
    logits = run(_largest_products(), np.full(INT8_SHAPE, LARGEST_ACTIVATION, np.float32))
    return bool((logits == INT8_SHAPE[1] * LARGEST_ACTIVATION * LARGEST_WEIGHT).all())


def _largest_products() -> bytes:
    """Make an ONNX model with one 1 x 1 convolution between uint8 images and int8 weights, all with scale 1.

    The output is quantized as well, with a scale that maps the largest possible sum to 255. Otherwise ONNX Runtime
    would compute the convolution in float32.
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
