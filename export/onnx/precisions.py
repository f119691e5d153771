"""Make a model's ONNX file at a lower precision of its fp32 file, compare the two, and write it. Free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from ...core.errors import ExportError, UsageError
from ...core.records import Model
from ..model_files import OnnxFile, check_precision, read_onnx_file, save_onnx_file, verify_model
from ..reference_images import photograph_crops
from .parity import Parity, check_finite, measure_parity, onnx_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """Clean images of an image set, from which an int8 file takes the ranges of its activations."""

    name: str
    """The name of the image set."""
    digest: str
    """The digest of the image set."""
    images: NDArray[np.float32] = field(repr=False)
    """(n, 3, S, S) in [0, 1]."""


def make_onnx_file(model: Model, precision: str, calibration: Calibration | None = None) -> tuple[OnnxFile, Parity]:
    """Make the model's ONNX file of a precision below fp32, compare it with the fp32 file, and write it.

    They are compared on the calibration's images, or else on photographs. Their distance is recorded with the file and
    decides nothing: whoever runs it decides, on the images that are run.

    Raises UsageError for int8 without calibration, or for a model that is no fp32 file; ExportError for a file that
    cannot be made, or whose logits are not finite.
    """
    if model.precision != "fp32":
        raise UsageError(f"{model.name} came as an {model.precision} file; a {precision} one is made of fp32 alone")
    content = verify_model(model)
    size = model.image_size
    images = photograph_crops(size) if calibration is None else calibration.images
    lowered, comparable = _lower(content, check_precision(precision), calibration)
    expected = check_finite(onnx_logits(content, images), f"the fp32 file of {model.name}")
    parity = measure_parity(expected, onnx_logits(comparable, images))
    if not parity.relative_difference < float("inf"):  # NaN fails too
        raise ExportError(
            f"the {precision} file of {model.name} overflows: its logits are not finite; nothing was written; use fp32"
        )
    # The file's bytes depend on the versions of these.
    packages = ("onnx", "onnxruntime", *(["nncf"] if precision == "int8" else []))
    versions = {name: import_module(name).__version__ for name in packages}
    provenance: dict[str, object] = {"versions": versions, "parity": asdict(parity)}
    if calibration is not None:
        provenance["calibration"] = {"name": calibration.name, "digest": calibration.digest, "images": len(images)}
    return save_onnx_file(model, precision, lowered, provenance), parity


def read_for_cpu(onnx_file: OnnxFile) -> bytes:
    """The file's verified content, so that ONNX Runtime on the CPU can run it: it lacks operators in fp16 and bf16.

    A file of bf16 is an fp32 file that a plan runs in bf16.
    """
    content = read_onnx_file(onnx_file)
    if onnx_file.precision not in ("fp16", "bf16"):
        return content
    from .fp16 import emulate_in_fp32, to_bf16

    return emulate_in_fp32(to_bf16(content) if onnx_file.precision == "bf16" else content)


def _lower(content: bytes, precision: str, calibration: Calibration | None) -> tuple[bytes, bytes]:
    """The ONNX file, and the one from which ONNX Runtime on the CPU computes its logits."""
    if precision == "fp16":
        from .fp16 import emulate_in_fp32, to_fp16

        half = to_fp16(content)
        return half, emulate_in_fp32(half)
    if precision != "int8":
        raise UsageError(f"{precision} is the model's own file; nothing is made of it")
    if calibration is None:
        raise UsageError("int8 takes the ranges of its activations from images; give an image set to calibrate on")
    from .int8 import to_int8

    int8 = to_int8(content, [calibration.images])
    return int8, int8
