"""Import a user's ONNX file as a model: one input of images in [0, 1], one output of logits.

The computing nodes are not changed. Only the names, the dynamic batch dimension and, if the graph does not contain it
yet, the normalization are added. The outputs of the model are compared with those of the original file.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...core.errors import ExportError, UsageError, plural
from ...core.untrusted import first_line, printable
from ..model_files import BATCH, GREY, MOST_FEATURES, MOST_PIXELS, NORMALIZATIONS, Normalization
from ..reference_images import photograph_crops
from .graph import append_pool, cut_graph, open_batch, rename_tensor
from .outputs import GIVE_HEAD, Features, Outputs, check_outputs, pool_features
from .parity import AT_ONCE, Conversion, Parity, check_finite, measure_parity
from .subprocess_run import try_logits

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTIZES = re.compile(r"QuantizeLinear|DynamicQuantize\w+|QLinear\w+|QGemm|QAttention|\w+Integer\w*")
"""Operators that quantize activations or take quantized ones: those of ONNX, and ONNX Runtime's own."""

DYNAMIC = (
    "it quantizes dynamically, by the range of each batch, so its logits jump with an image's last digit; quantize "
    "it statically, or give the fp32 file and make int8 of it: bandlens export NAME --precision int8 --calibration SET"
)
"""Explains why the logits of a dynamically quantized file are not reproducible, and what to do."""

OPEN_BATCH = 'export it with a dynamic batch: torch.onnx.export(..., dynamic_shapes=({0: "batch"},))'
"""Advice for a graph that contains a fixed batch size in more places than its input."""


def is_onnx(path: Path) -> bool:
    """Return whether the file is an ONNX model with nodes. The weights are not loaded."""
    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # ONNX files begin with the tag of ir_version
            return False
    try:
        return len(onnx.load(path, load_external_data=False).graph.node) > 0
    except Exception:  # protobuf raises many classes of errors  # noqa: BLE001
        return False


@dataclass(frozen=True, slots=True)
class FinishedFile(Conversion):
    """A user's ONNX file, converted to a model."""

    sha256: str
    """SHA-256 digest of the user's file with all its weights embedded."""
    image_size: int
    precision: str
    """Precision in which the file computes: fp32, fp16 or int8."""
    metadata: dict[str, str]
    """Metadata of the user's file. It may contain the class names."""


def take_onnx(
    path: Path, normalization: Normalization, image_size: int | None, statement: Features | Outputs
) -> FinishedFile:
    """Convert a user's ONNX file to a model.

    Args:
        path: The ONNX file.
        normalization: Mean and standard deviation per channel that the file expects. It is added to the graph.
        image_size: Side of the images in pixels, for a file with a dynamic image size.
        statement: What the output is: logits of classes, labels, or features.

    Raises:
        UsageError: If the file does not exist, or if the image size is missing or contradicts the file.
        ExportError: If the input is not (batch, 3, S, S) float32, or if the output does not match `statement`: (batch,
            classes) float32 logits, (batch, labels) logits or probabilities, or features.
    """
    features = statement if isinstance(statement, Features) else None
    model = _read(path)
    sha256 = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    if features is not None and features.output is not None:
        cut_graph(model, features.output, str(path))
    initialized = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ExportError(
            f"{path} has {plural(len(inputs), 'input')} and {plural(len(model.graph.output), 'output')} "
            f"({_names(inputs)} to {_names(model.graph.output)}); export it with one input of images "
            "and one output of logits, or name the tensor of its features as `output` of a head: --head FILE.toml"
        )
    # Files of IR version 3 and older, and of some newer exporters, list the weights among the inputs as well.
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    (images_input,) = model.graph.input
    adapted = _adapt(model, images_input)
    batch, size = _batch_and_size(path, images_input, image_size)
    width = max((dimension.dim_value for dimension in model.graph.output[0].type.tensor_type.shape.dim), default=0)
    if width > MOST_FEATURES:
        raise ExportError(f"{path} gives {width:,} values an image, and {MOST_FEATURES:,} are the most; export a part")
    images = photograph_crops(size)
    # Dynamic quantization depends on the composition of the batch, so the original and the model must run on the same
    # batches.
    dynamic = any(node.op_type.startswith("DynamicQuantize") for node in model.graph.node)
    step, at_once = (batch or AT_ONCE,) * 2 if dynamic else (batch or 1, AT_ONCE)
    outputs = _outputs_of_file(path, model, images, step, normalization, features is not None)
    check_finite(outputs, str(path), "logits" if features is None else "features")
    if isinstance(statement, Outputs):
        check_outputs(outputs, model.SerializeToString(), str(path), statement)
    else:
        rank, outputs = outputs.ndim, pool_features(outputs, statement.pool)
        if statement.pool is not None:
            append_pool(model, statement.pool, rank)
    if batch is not None:
        open_batch(model.graph, batch)
    content = _rewrite(path, model, size, outputs.shape[1], normalization)

    fixed_batch = f"{path} works on batches of {batch or 1} alone; {OPEN_BATCH}"

    def compute(file: bytes, width: int) -> NDArray[np.float32]:
        """Return the (n, width) outputs of a file with a dynamic batch size on the reference images."""
        try:
            logits = try_logits(file, images, at_once, f"the model of {path}")
        except ExportError as error:
            if batch is None:
                raise
            raise ExportError(fixed_batch) from error
        if logits.shape != (len(images), width):
            raise ExportError(fixed_batch)
        return check_finite(logits, f"the model of {path}")

    def check(file: bytes, expected: NDArray[np.floating]) -> Parity:
        """Compare the logits of a file with `expected`. Raises ExportError if they differ."""
        parity = measure_parity(expected, compute(file, expected.shape[1]))
        if not parity.holds:
            why = DYNAMIC if dynamic else OPEN_BATCH if batch else "nothing was written"
            raise ExportError(f"the model made of {path} does not compute what it does: {parity}; {why}")
        return parity

    if features is not None:
        compute(content, outputs.shape[1])  # detects a fixed batch size before time is spent on training a head
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return FinishedFile(content, outputs, adapted, check, sha256, size, precision_of(model), metadata)


def precision_of(model: onnx.ModelProto) -> str:
    """Return the precision in which an ONNX file computes.

    It is int8 if activations are quantized, and fp16 if there are float16 tensors. If only weights are quantized, they
    are multiplied in float32, so the file counts as fp32.
    """
    if any(QUANTIZES.fullmatch(node.op_type) for node in model.graph.node):
        return "int8"
    types = {initializer.data_type for initializer in model.graph.initializer}
    for node in model.graph.node:
        types |= {attribute.t.data_type for attribute in node.attribute}
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"


def _read(path: Path) -> onnx.ModelProto:
    """Load the model with all its weights, including those in external files.

    The file is not validated here, but by `try_logits`.
    """
    if not path.is_file():
        raise UsageError(f"no ONNX file at {path}; check the path")
    if not is_onnx(path):
        raise UsageError(f"{path} is no ONNX file; weights are given with --architecture")
    try:
        return onnx.load(path)
    # Missing external weights cause errors of many classes.
    except Exception as error:
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            for name in (entry.value for entry in tensor.external_data if entry.key == "location"):
                if not (file := path.parent / name).is_file() or file.is_symlink():
                    name = printable(name)
                    raise ExportError(
                        f"the weights of {path} lie in {name}, which is not beside it as a real file; copy it there"
                    ) from error
        raise ExportError(f"{path} is not valid ONNX: {first_line(error)}; export it again") from error


def _names(values: Any) -> str:
    return ", ".join(value.name for value in values) or "none"


def _adapt(model: onnx.ModelProto, images: onnx.ValueInfoProto) -> list[str]:
    """Prepend a grayscale conversion to a graph with one input channel. Return messages about what was added."""
    graph = model.graph
    channels = images.type.tensor_type.shape.dim[1:2]
    if len(images.type.tensor_type.shape.dim) != 4 or channels[0].dim_value != 1:
        return []
    weights = numpy_helper.from_array(np.full((1, 3, 1, 1), 1 / 3, np.float32), "grey/weights")
    graph.initializer.append(weights)
    graph.node.insert(0, helper.make_node("Conv", ["grey/colours", weights.name], [images.name]))
    images.name, channels[0].dim_value = "grey/colours", 3
    return [GREY]


def _batch_and_size(path: Path, images: onnx.ValueInfoProto, image_size: int | None) -> tuple[int | None, int]:
    """Return the fixed batch size, or None if it is dynamic, and the side of the images in pixels."""
    kind = images.type.tensor_type
    shape = [dimension.dim_value or dimension.dim_param or "?" for dimension in kind.shape.dim]
    floats = kind.elem_type == onnx.TensorProto.FLOAT
    if len(shape) != 4 or isinstance(shape[1], str) or shape[1] != 3 or not floats:
        takes = f"({', '.join(map(str, shape))}) {onnx.TensorProto.DataType.Name(kind.elem_type).lower()}"
        raise ExportError(f"{path} takes {takes}; export it to take (batch, 3, size, size) float32, RGB")
    sides = {side for side in shape[2:] if isinstance(side, int)}
    if len(sides) > 1:
        raise ExportError(
            f"{path} takes images of {shape[2]} x {shape[3]} pixels, and only square ones can be measured; export it "
            "with a Resize of square images in front"
        )
    if not sides and image_size is None:
        raise UsageError(f"{path} leaves the size of its images open; say which with --image-size")
    size = sides.pop() if sides else image_size or 0
    if size > MOST_PIXELS:
        raise ExportError(f"{path} takes images of {size:,} pixels, and {MOST_PIXELS:,} are the most; export it anew")
    if image_size not in (None, size):
        raise UsageError(f"{path} takes images of {size} pixels; leave out --image-size")
    return shape[0] if isinstance(shape[0], int) else None, size


def _outputs_of_file(
    path: Path,
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    step: int,
    normalization: Normalization,
    features: bool,
) -> NDArray[np.float32]:
    """Run the original file on normalized images, `step` at once, and return its (n, classes) output.

    If the output is `features`, it may have any number of dimensions. Raises ExportError for any other shape.
    """
    filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % step, axis=0)])
    centre, scale = (np.array(channels, np.float32).reshape(3, 1, 1) for channels in normalization)
    output = try_logits(model.SerializeToString(), (filled - centre) / scale, step, str(path))
    if (output.ndim != 2 and not features) or len(output) != len(filled) or output.dtype != np.float32:
        raise ExportError(
            f"{path} gives {output.shape} {output.dtype} for {len(filled)} images; export it to give (batch, classes) "
            f"float32 logits, or features, and {GIVE_HEAD}"
        )
    return output[: len(images)]


def _rewrite(path: Path, model: onnx.ModelProto, size: int, classes: int, normalization: Normalization) -> bytes:
    """Rename input and output to those of a model, make the batch dimension dynamic, and prepend the normalization."""
    graph, normalizes = model.graph, normalization != NORMALIZATIONS["none"]
    for name in ("images", "logits", "normalization_mean", "normalization_std", "centred_images", "normalized_images"):
        rename_tensor(graph, name, f"{name}_inside")
    rename_tensor(graph, graph.input[0].name, "normalized_images" if normalizes else "images")
    rename_tensor(graph, graph.output[0].name, "logits")
    nodes = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [BATCH, 3, size, size]))
    graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [BATCH, classes]))
    if normalizes:
        first = [node.op_type for node in nodes if "normalized_images" in node.input]
        if first in (["Sub"], ["Mul"], ["Div"]):
            logging.getLogger("bandlens").warning(
                f"bandlens: warning: {path} begins with {first[0]}, as files do that normalize by themselves, and is "
                "normalized before that, too; if it is one, its normalization is none"
            )
        for name, channels in zip(("mean", "std"), normalization, strict=True):
            numbers = np.array(channels, np.float32).reshape(1, 3, 1, 1)
            graph.initializer.append(numpy_helper.from_array(numbers, f"normalization_{name}"))
        graph.node.append(helper.make_node("Sub", ["images", "normalization_mean"], ["centred_images"]))
        graph.node.append(helper.make_node("Div", ["centred_images", "normalization_std"], ["normalized_images"]))
    graph.node.extend(nodes)
    return bytes(model.SerializeToString(deterministic=True))
