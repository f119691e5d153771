"""The ONNX files of a model on disk, one per precision.

The model itself is MODELS/NAME.onnx: the fp32 file, or a finished one at its own precision. Files made from the fp32
file lie in a folder per precision, MODELS/fp16/NAME.onnx and MODELS/int8/NAME.onnx. A NAME.json beside each holds
`precision`, `sha256`, `bytes`, `made_from` (sha256 of the fp32 file) and how the file was made: `versions`, `parity`
with the fp32 file, and for int8 `calibration`.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ExportError, UnknownName
from ...core.records import Model
from ...core.untrusted import parse_json, read_text
from ..models import MOST_DESCRIPTION_BYTES, PRECISIONS, read_onnx, write_described


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """One ONNX file that takes float32 `images` in [0, 1] and gives float32 `logits`, whatever types lie between."""

    precision: str
    path: Path
    sha256: str
    models: Path
    """The folder of the models."""

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.path.name.removesuffix(".onnx")

    @property
    def itself(self) -> bool:
        """Whether it is the model itself, and no file that was made of it."""
        return self.path.parent == self.models

    @property
    def command(self) -> str:
        """The command that makes the file and its TensorRT plan."""
        # fp32 stands for the model itself, whatever precision that has.
        precision = "fp32" if self.itself else self.precision
        return shlex.join(["bandlens", "export", self.name, "--precision", precision, "--out", str(self.models)])


def check_precision(precision: str) -> str:
    """The precision, if it is one; UnknownName otherwise."""
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    return precision


def save_onnx_file(model: Model, precision: str, content: bytes, provenance: Mapping[str, Any]) -> OnnxFile:
    """Write an ONNX file that was made from the model's fp32 file, and its description beside it; or ExportError."""
    path = _path(model, check_precision(precision))
    sha256 = hashlib.sha256(content).hexdigest()
    description = {"precision": precision, "sha256": sha256, "bytes": len(content), "made_from": model.sha256}
    write_described(path, content, description | dict(provenance))
    return OnnxFile(precision, path, sha256, model.path.parent)


def load_onnx_file(model: Model, precision: str) -> OnnxFile:
    """The model's ONNX file of a precision; `read_onnx_file` reads and verifies its content.

    fp32 stands for the model itself, whatever precision that has.

    Raises UnknownName for an unknown precision; ExportError, with the command to run, for a file that is missing,
    damaged, or made from another fp32 file than the model's.
    """
    if check_precision(precision) in ("fp32", model.precision):
        return OnnxFile(model.precision, model.path, model.sha256, model.path.parent)
    path = _path(model, precision)
    description = describe_onnx_file(model, precision)
    onnx_file = OnnxFile(precision, path, description["sha256"], model.path.parent)
    if description["made_from"] != model.sha256:
        raise ExportError(f"{path} was made from another export of {model.name}; {_hint(onnx_file)}")
    if not path.is_file() or path.stat().st_size != description["bytes"]:
        raise ExportError(f"{path} is missing or not as long as {_description_path(path)} says; {_hint(onnx_file)}")
    return onnx_file


def describe_onnx_file(model: Model, precision: str) -> dict[str, Any]:
    """The description of a file made from the model's fp32 file; ExportError if it is missing or damaged."""
    path = _path(model, precision)
    hint = _hint(OnnxFile(precision, path, "", model.path.parent))
    try:
        description: dict[str, Any] = parse_json(read_text(_description_path(path), MOST_DESCRIPTION_BYTES))
        kinds = [type(description[key]) for key in ("made_from", "sha256", "bytes")]
    except FileNotFoundError:
        raise ExportError(f"{model.name} has no {precision} file in {path.parent}; {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{_description_path(path)} is damaged: {error}; {hint}") from error
    if kinds != [str, str, int]:
        raise ExportError(f"{_description_path(path)} is damaged; {hint}")
    return description


def read_onnx_file(onnx_file: OnnxFile) -> bytes:
    """The ONNX file's content, if its sha256 is the recorded one; ExportError, with the command to run, otherwise."""
    return read_onnx(onnx_file.path, onnx_file.sha256, _hint(onnx_file))


def _hint(onnx_file: OnnxFile) -> str:
    calibrated = onnx_file.precision == "int8" and not onnx_file.itself
    return f"run: {onnx_file.command}{' --calibration IMAGE_SET' if calibrated else ''}"


def _path(model: Model, precision: str) -> Path:
    return model.path.parent / precision / f"{model.name}.onnx"


def _description_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.onnx')}.json")
