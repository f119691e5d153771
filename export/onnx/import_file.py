"""Make a model of a user's finished ONNX file: one input of images in [0, 1], one output of logits.

The nodes that compute stay as they are. Only names, the open batch and, if it is not in the graph yet, the
normalization are new, and the model is compared with the file that it was made of.
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
"""Operators that quantize activations, or take quantized ones: those of ONNX, and ONNX Runtime's own."""

DYNAMIC = (
    "it quantizes dynamically, by the range of each batch, so its logits jump with an image's last digit; quantize "
    "it statically, or give the fp32 file and make int8 of it: bandlens export NAME --precision int8 --calibration SET"
)
"""Why a file that quantizes dynamically has logits that cannot be made again, and what to do."""

OPEN_BATCH = 'export it with a dynamic batch: torch.onnx.export(..., dynamic_shapes=({0: "batch"},))'
"""The advice about a graph that holds the batch in more than its input."""


def is_onnx(path: Path) -> bool:
    """Whether the file is an ONNX model with nodes, judged without its weights."""
    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # every ONNX file begins with the tag of ir_version
            return False
    try:
        return len(onnx.load(path, load_external_data=False).graph.node) > 0
    except Exception:  # protobuf raises another class for every fault  # noqa: BLE001
        return False


@dataclass(frozen=True, slots=True)
class FinishedFile(Conversion):
    """A user's ONNX file as a model."""

    sha256: str
    """The digest of the user's file with all its weights inside."""
    image_size: int
    precision: str
    """The precision that the file computes in: fp32, fp16 or int8."""
    metadata: dict[str, str]
    """Metadata of the user's file by key; the names of its classes may be among them."""


def take_onnx(
    path: Path, normalization: Normalization, image_size: int | None, statement: Features | Outputs
) -> FinishedFile:
    """Make a model of a finished ONNX file.

    `image_size` is for a file that leaves it open. Raises UsageError where there is no such file, ExportError for one
    that does not take (batch, 3, S, S) float32 images or does not give what the `statement` says: (batch, classes)
    float32 logits, (batch, labels) logits or probabilities, or features.
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
    # Old files, and some exporters' new ones, list every weight among the inputs, too.
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
    # A file that takes ranges from each batch gives other logits in another one, so both run in the same.
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
        """(n, width) that a file with an open batch gives of the photographs."""
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
        parity = measure_parity(expected, compute(file, expected.shape[1]))
        if not parity.holds:
            why = DYNAMIC if dynamic else OPEN_BATCH if batch else "nothing was written"
            raise ExportError(f"the model made of {path} does not compute what it does: {parity}; {why}")
        return parity

    if features is not None:
        compute(content, outputs.shape[1])  # a batch that is fixed is found before a head is trained
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return FinishedFile(content, outputs, adapted, check, sha256, size, precision_of(model), metadata)


def precision_of(model: onnx.ModelProto) -> str:
    """The precision that an ONNX file computes in: int8 where it quantizes activations, fp16 where it holds float16.

    Weights alone that are quantized are multiplied in float32, so a file of such is fp32.
    """
    if any(QUANTIZES.fullmatch(node.op_type) for node in model.graph.node):
        return "int8"
    types = {initializer.data_type for initializer in model.graph.initializer}
    for node in model.graph.node:
        types |= {attribute.t.data_type for attribute in node.attribute}
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"


def _read(path: Path) -> onnx.ModelProto:
    """Read the model with all its weights, also those in files beside it; `try_logits` checks that it is valid."""
    if not path.is_file():
        raise UsageError(f"no ONNX file at {path}; check the path")
    if not is_onnx(path):
        raise UsageError(f"{path} is no ONNX file; weights are given with --architecture")
    try:
        return onnx.load(path)
    # Weights in other files may be missing in many ways.
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
    """Have a graph of one channel take RGB; the lines of what was added."""
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
    """The number of images that the file takes at once, None for any number, and their width and height."""
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
    """(n, classes) that the file computes from normalized images, `step` at once; ExportError for any other shape.

    Where they are `features`, each image may have any shape of them.
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
    """The file with a model's names of input and output, an open batch, and the normalization in front."""
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
