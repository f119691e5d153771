"""Convert a model's fp32 ONNX file to a lower precision, compare the two, and save the result. Does not need torch."""

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
    """Clean images from which the activation ranges of an int8 file are determined."""

    name: str
    """Name of the image set."""
    digest: str
    """Digest of the image set."""
    images: NDArray[np.float32] = field(repr=False)
    """(n, 3, S, S) float32 in [0, 1]."""


def make_onnx_file(model: Model, precision: str, calibration: Calibration | None = None) -> tuple[OnnxFile, Parity]:
    """Convert the model to a precision below fp32, compare it with the fp32 file, and save it.

    The two are compared on the calibration images, or on the bundled reference images if there are none. The difference
    is recorded with the file and does not cause a rejection. Whether it matters has to be tested on the images of a
    study.

    Args:
        model: The model, with an fp32 ONNX file.
        precision: fp16 or int8.
        calibration: Images for int8.

    Returns:
        The new file, and its comparison with the fp32 file.

    Raises:
        UsageError: If int8 is requested without calibration, or if the model is not an fp32 file.
        ExportError: If the file cannot be converted, or if its logits are not finite.
    """
    if model.precision != "fp32":
        raise UsageError(f"{model.name} came as an {model.precision} file; a {precision} one is made of fp32 alone")
    content = verify_model(model)
    size = model.image_size
    images = photograph_crops(size) if calibration is None else calibration.images
    lowered, comparable = _lower(content, check_precision(precision), calibration)
    expected = check_finite(onnx_logits(content, images), f"the fp32 file of {model.name}")
    parity = measure_parity(expected, onnx_logits(comparable, images))
    if not parity.relative_difference < float("inf"):  # written with `not` so that NaN fails as well
        raise ExportError(
            f"the {precision} file of {model.name} overflows: its logits are not finite; nothing was written; use fp32"
        )
    # The bytes of the file depend on the versions of these packages.
    packages = ("onnx", "onnxruntime", *(["nncf"] if precision == "int8" else []))
    versions = {name: import_module(name).__version__ for name in packages}
    provenance: dict[str, object] = {"versions": versions, "parity": asdict(parity)}
    if calibration is not None:
        provenance["calibration"] = {"name": calibration.name, "digest": calibration.digest, "images": len(images)}
    return save_onnx_file(model, precision, lowered, provenance), parity


def read_for_cpu(onnx_file: OnnxFile) -> bytes:
    """Load the verified file in a form that ONNX Runtime on the CPU can run, which lacks fp16 and bf16 operators.

    For bf16 the stored file is the fp32 file, which a TensorRT plan runs in bf16.
    """
    content = read_onnx_file(onnx_file)
    if onnx_file.precision not in ("fp16", "bf16"):
        return content
    from .fp16 import emulate_in_fp32, to_bf16

    return emulate_in_fp32(to_bf16(content) if onnx_file.precision == "bf16" else content)


def _lower(content: bytes, precision: str, calibration: Calibration | None) -> tuple[bytes, bytes]:
    """Return the converted ONNX file, and the file from which ONNX Runtime on the CPU computes the same logits."""
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
