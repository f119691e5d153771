"""A finished ONNX file of a user's -> the model's: one input of images in [0, 1], one output of logits.

What computes stays as it is. Only names, the open batch and, if it is not in the graph yet, the normalization are new,
and the model is compared with the file that it was made of.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ...errors import ExportError, UsageError
from ...untrusted import first_line
from ..models import BATCH
from ..normalization import NORMALIZATIONS, Channels
from ..photographs import photograph_crops
from .parity import Parity, check_finite, compare, onnx_logits

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUMS_TO_ONE = 1e-3
"""How far the sum of an image's probabilities may lie from 1."""


def is_onnx(path: Path) -> bool:
    """Whether the file is an ONNX model with nodes, as far as can be told without its weights."""
    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # the tag of ir_version, which comes first
            return False
    try:
        return len(onnx.load(path, load_external_data=False).graph.node) > 0
    except Exception:  # protobuf has a class of its own for every fault  # noqa: BLE001
        return False


def take_onnx(path: Path, mean: Channels, std: Channels, image_size: int | None) -> tuple[bytes, str, int, int, Parity]:
    """The model's file, the sha256 of the given one with all its weights inside, the image size and number of classes,
    and how the two compare.

    `image_size` is for a file that leaves it open. Raises UsageError where there is no such file, ExportError for one
    that does not take (batch, 3, S, S) float32 images or does not give (batch, classes) float32 logits.
    """
    model = _read(path)
    sha256 = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    initialized = {one.name for one in model.graph.initializer}
    taken = [one for one in model.graph.input if one.name not in initialized]
    if len(taken) != 1 or len(model.graph.output) != 1:
        raise ExportError(
            f"{path} has {len(taken)} inputs and {len(model.graph.output)} outputs ({_names(taken)} to "
            f"{_names(model.graph.output)}); export it with one input of images and one output of logits"
        )
    batch, size = _batch_and_size(path, taken[0], image_size)
    images = photograph_crops(size)
    expected = check_finite(_given_logits(path, model, images, batch, mean, std), str(path))
    content = _rewritten(model, size, expected.shape[1], mean, std)
    try:
        found = onnx_logits(content, images)
    except ExportError as error:
        if batch is None:
            raise
        raise ExportError(f"{path} works on batches of {batch} alone; export it with a dynamic batch") from error
    if found.shape != expected.shape:
        raise ExportError(f"{path} works on batches of {batch or 1} alone; export it with a dynamic batch")
    parity = compare(expected, check_finite(found, f"the model of {path}"))
    if not parity.holds:
        raise ExportError(f"the model made of {path} does not compute what it does: {parity}; nothing was written")
    return content, sha256, size, expected.shape[1], parity


def _read(path: Path) -> onnx.ModelProto:
    """The model with all its weights, also those in files beside it."""
    if not path.is_file():
        raise UsageError(f"no ONNX file at {path}; check the path")
    if not is_onnx(path):
        raise UsageError(f"{path} is no ONNX file; weights are given without --onnx, and with --architecture")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    # Weights that lie elsewhere may be missing in any way, and the checker has a class for each of its parts.
    except Exception as error:
        raise ExportError(f"{path} is not valid ONNX: {first_line(error)}; export it again") from error
    return model


def _names(values: Any) -> str:
    return ", ".join(value.name for value in values) or "none"


def _batch_and_size(path: Path, taken: onnx.ValueInfoProto, image_size: int | None) -> tuple[int | None, int]:
    """How many images it takes at once, None for any number, and their width and height."""
    kind = taken.type.tensor_type
    shape = [one.dim_value or one.dim_param or "?" for one in kind.shape.dim]
    floats = kind.elem_type == onnx.TensorProto.FLOAT
    if len(shape) != 4 or isinstance(shape[1], str) or shape[1] != 3 or not floats:
        said = f"({', '.join(map(str, shape))}) {onnx.TensorProto.DataType.Name(kind.elem_type).lower()}"
        raise ExportError(f"{path} takes {said}; export it to take (batch, 3, size, size) float32, RGB")
    sides = {side for side in shape[2:] if isinstance(side, int)}
    if len(sides) > 1:
        raise ExportError(f"{path} takes images of {shape[2]} x {shape[3]} pixels; only square ones can be measured")
    if not sides and image_size is None:
        raise UsageError(f"{path} leaves the size of its images open; say which with --image-size")
    size = sides.pop() if sides else image_size or 0
    if image_size not in (None, size):
        raise UsageError(f"{path} takes images of {size} pixels; leave out --image-size")
    return shape[0] if isinstance(shape[0], int) else None, size


def _given_logits(
    path: Path, model: onnx.ModelProto, images: NDArray[np.float32], batch: int | None, mean: Channels, std: Channels
) -> NDArray[np.float32]:
    """(n, classes) of what the file itself computes of normalized images; ExportError unless they are logits."""
    step = batch or 1
    filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % step, axis=0)])
    channels = (np.array(one, np.float32).reshape(3, 1, 1) for one in (mean, std))
    normalized = (filled - next(channels)) / next(channels)
    given = onnx_logits(model.SerializeToString(), normalized, step, str(path))
    if given.ndim != 2 or len(given) != len(filled) or given.dtype != np.float32:
        raise ExportError(
            f"{path} gives {given.shape} {given.dtype} for {len(filled)} images; export it to give (batch, classes) "
            "float32 logits"
        )
    logits = given[: len(images)]
    if logits.min() >= 0 and np.abs(logits.sum(axis=1) - 1).max() < SUMS_TO_ONE:
        raise ExportError(f"{path} gives probabilities, not logits; export the network without its last softmax")
    return logits


def _rewritten(model: onnx.ModelProto, size: int, classes: int, mean: Channels, std: Channels) -> bytes:
    """The file with the model's names, an open batch, and the normalization in front."""
    from onnxscript import ir

    whole = ir.from_proto(model)
    graph = whole.graph
    images, logits = graph.inputs[0], graph.outputs[0]
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in ("images", "logits"):
                value.name = f"{value.name}_inside"
    for name in [name for name in graph.initializers if name in ("images", "logits")]:
        graph.initializers[name].name = f"{name}_inside"
    images.name, logits.name = "images", "logits"
    images.shape, logits.shape = ir.Shape([BATCH, 3, size, size]), ir.Shape([BATCH, classes])
    if (mean, std) != NORMALIZATIONS["none"]:
        constants = []
        for name, channels in (("mean", mean), ("std", std)):
            numbers = ir.tensor(np.array(channels, np.float32).reshape(1, 3, 1, 1), name=f"normalization_{name}")
            constants.append(
                ir.Value(name=numbers.name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 3, 1, 1]))
            )
            constants[-1].const_value = numbers
            graph.register_initializer(constants[-1])
        centred = ir.node("Sub", [images, constants[0]])
        scaled = ir.node("Div", [centred.outputs[0], constants[1]])
        ir.convenience.replace_all_uses_with(images, scaled.outputs[0])
        centred.replace_input_with(0, images)
        graph.insert_before(graph[0], [centred, scaled])
    written = ir.to_proto(whole)
    del written.graph.value_info[:]
    return bytes(written.SerializeToString(deterministic=True))
