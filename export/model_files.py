"""Save, load and verify the files of exported models. This module does not import torch.

A folder of models contains NAME.onnx, the model itself, and NAME.json, its description. The model is the fp32 export,
or an imported ONNX file at its own precision. The description contains the fields of `Model`, with `path` relative to
the folder, and properties of the export: `bytes`, `parity`, `opset`, `torch`, the keys of weights that were `dropped`,
`adapted` (one sentence for each modification of the network), `class_names` (or label names) if known, and
`training_keys`, the keys of the images on which a head was trained, 16 hexadecimal digits each.

Files derived from the fp32 model are stored in one folder per precision, as fp16/NAME.onnx and int8/NAME.onnx. Their
descriptions contain `precision`, `sha256`, `bytes`, `made_from` (SHA-256 of the fp32 file), and properties of the
conversion: `versions`, `parity` with the fp32 file, and for int8 `calibration`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import ExportError, UnknownName, UsageError, did_you_mean, writing
from ..core.files import write_bytes
from ..core.records import Crop, Head, Model
from ..core.untrusted import as_record, parse_json, read_text, without_secrets, words_of

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=()-]{0,199}(?<! )")
"""Names that are valid file names on every file system, with room for a suffix.

Commas are excluded, because a comma separates the two names of a comparison.
"""
EXTERNAL_DATA = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""Matches the key `location` of an ONNX tensor that is stored in another file.

The tag and the length that precede it have several valid encodings in protobuf.
"""
PRECISIONS = ("fp32", "fp16", "int8")
"""Precisions of ONNX files."""
GREY = "takes grey images: the mean of red, green and blue"
"""Entry in `adapted` for a network with a single input channel."""
ONE_LOGIT = "gives one logit: exported as a classifier of two, which answers 1 where it is above 0"
"""Entry in `adapted` for a network with a single logit."""
LABEL_SETS = "gives {0} labels: exported as a classifier of their sets, which have each label whose logit is above 0"
"""Entry in `adapted` for a multi-label network."""
FUNCTION = "function"
"""Architecture and file suffix of models that are Python functions; see `export.functions`."""
OWN_NORMALIZATION = "its own"
"""Normalization of models that are Python functions, which receive images in [0, 1]."""
ENDINGS = (".onnx", f".{FUNCTION}")
"""Suffixes of model files."""
BATCH = "batch"
"""Name of the batch dimension, the only dynamic dimension of a model."""
MOST_CLASSES = 1 << 16
"""Maximum number of classes. Predictions are stored in 16 bits."""
MOST_PIXELS = 4096
"""Maximum width and height of a model's images in pixels."""
MOST_FEATURES = 1_000_000
"""Maximum number of output values per image of a feature extractor."""
FINISHED = "onnx"
"""Architecture of imported ONNX files. Two of them need not have the same structure."""
Channels = tuple[float, float, float]
"""One number for each of red, green and blue."""
Normalization = tuple[Channels, Channels]
"""Mean and standard deviation per RGB channel with which a network's images in [0, 1] are normalized."""
NORMALIZATIONS: dict[str, Normalization] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> normalization."""


def home() -> Path:
    """Return `$BANDLENS_HOME`, by default ~/.cache/bandlens."""
    return Path(os.environ.get("BANDLENS_HOME") or Path.home() / ".cache" / "bandlens")


def models_folder() -> Path:
    return home() / "models"


def normalization_name(normalization: Normalization) -> str:
    """Return the name of a normalization, or its numbers as text if it has no name."""
    mean, std = normalization
    names = (name for name, numbers in NORMALIZATIONS.items() if numbers == normalization)
    return next(names, f"mean {', '.join(map(repr, mean))}; std {', '.join(map(repr, std))}")


def normalization_option(name: str) -> str:
    """Convert a normalization name to the syntax of `--normalization`: a name, or MEAN:STD."""
    return name.removeprefix("mean ").replace("; std ", ":").replace(", ", ",")


def check_name(name: str, kind: str = "model") -> str:
    """Return `name` if it is a valid file name.

    Args:
        name: Name of a model or of a category.
        kind: `model` or `category`, for the error message.

    Raises:
        UsageError: The name is not valid.
    """
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a {kind}; use letters, digits, spaces and . _ + - = ( ), a letter or digit first"
        )
    return name


def save_model(model: Model, content: bytes, provenance: Mapping[str, Any]) -> None:
    """Write a model to `model.path`, and its description next to it; see `write_described`."""
    write_described(model.path, content, asdict(model) | {"path": model.path.name, "bytes": len(content), **provenance})


def write_described(path: Path, content: bytes, description: Mapping[str, Any]) -> None:
    """Write an ONNX file and its description. Each file is replaced atomically.

    Raises:
        UsageError: A file cannot be written.
    """
    with writing(path, "choose another folder with --out"):
        write_bytes(path, content)
        write_bytes(_description_path(path), json.dumps(description, indent=1).encode())


def model_names(folder: Path | None) -> list[str]:
    """Return the names of the models in a folder (default: `models_folder`) in alphabetical order."""
    descriptions = (folder or models_folder()).glob("*.json")
    return sorted(file.stem for file in descriptions if any(file.with_suffix(ending).exists() for ending in ENDINGS))


def load_model(folder: Path | None, name: str) -> Model:
    """Load the description of a model, and check it.

    Args:
        folder: Folder of the models; None for `models_folder`.
        name: Name of the model.

    Returns:
        The model. The content of its file is not read; see `verify_model`.

    Raises:
        UnknownName: There is no such model.
        ExportError: The description is damaged, or the model file is missing or has the wrong size.
    """
    folder = folder or models_folder()
    path = folder / f"{name}.json"
    try:
        description = describe_model(folder, name)
        model, size = as_record(Model, description | {"crop": None, "head": None}), description["bytes"]
        if description.get("crop") is not None:
            model = replace(model, crop=as_record(Crop, description["crop"]))
        if description.get("head") is not None:
            model = replace(model, head=as_record(Head, description["head"]))
        # File paths are derived from these fields. In an untrusted folder, they must not lead outside the folder.
        if model.name != name or model.path not in [Path(f"{name}{ending}") for ending in ENDINGS]:
            raise ValueError(f"it is of {model.name}, in {model.path}")
        if not (1 <= model.image_size <= MOST_PIXELS and 1 <= model.classes <= MOST_CLASSES):
            raise ValueError(f"{model.classes} classes of images of {model.image_size} pixels")
        if model.multilabel and model.classes != 1 << model.named[0]:
            raise ValueError(f"{model.classes} classes are not all sets of labels")
        if model.precision not in PRECISIONS:
            raise ValueError(f"its precision is {model.precision}, not {', '.join(PRECISIONS)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is damaged: {error}; export {name} again") from error
    model = replace(model, path=folder / model.path, source=without_secrets(model.source))
    if not model.path.is_file() or model.path.stat().st_size != size:
        raise ExportError(f"{model.path} is missing or not as long as {path} says; export {name} again")
    return model


def describe_model(folder: Path, name: str) -> dict[str, Any]:
    """Return the description of a model.

    Raises:
        UnknownName: There is no such model.
        UsageError: `folder` is a file.
        ValueError: The description is not valid JSON.
    """
    path = folder / f"{name}.json"
    if not (MODEL_NAME.fullmatch(name) and path.is_file()):
        if folder.is_file():
            raise UsageError(f"{folder} is a file; name the folder of models that it lies in")
        near = "" if folder.is_dir() else did_you_mean(folder.name, [path.name for path in folder.parent.glob("*/")])
        place = near and f"there is no folder {folder}{near}; "
        if not near and Path("models", path.name).is_file():
            place = "the folder models has it, and was not named; "
        hint = f"{place}export it into {folder} with `bandlens export`"
        if "/" in name or name.endswith(".onnx"):
            hint = f"a model goes by its name, such as {Path(name).stem}, and its folder stands apart (`models`)"
        raise UnknownName("model", name, model_names(folder), hint)
    return dict(parse_json(read_text(path)))


def training_keys_of(model: Model) -> list[int]:
    """Return the keys of the images on which the model's head was trained.

    The list is empty if the model has no trained head.

    Raises:
        ExportError: The keys in the description are damaged.
    """
    digits = describe_model(model.path.parent, model.name).get("training_keys", "")
    try:
        return [number for (number,) in struct.iter_unpack(">Q", bytes.fromhex(digits))]
    except (ValueError, TypeError, struct.error) as error:
        path = _description_path(model.path)
        raise ExportError(f"{path} is damaged: training_keys are none; export {model.name} again") from error


def categorize_model(model: Model, category: str) -> Model:
    """Set the category of a model, and store it in the model's description.

    Studies then use this category: charts color models by category, and `category:NAME` selects all models of a
    category. The initial category of a user's model is `own`.

    Args:
        model: The exported model.
        category: Name of the category.

    Returns:
        The model with the new category.

    Raises:
        UsageError: The category is not a valid file name, or the model's folder cannot be written.
    """
    update_description(model, {"category": check_name(category, "category")})
    return replace(model, category=category)


def update_description(model: Model, changes: dict[str, Any]) -> None:
    """Change entries of a model's description.

    Raises:
        UsageError: The folder cannot be written.
    """
    path, description = _description_path(model.path), describe_model(model.path.parent, model.name) | changes
    with writing(path, "make its folder writable"):
        write_bytes(path, json.dumps(description, indent=1).encode())


def verify_model(model: Model) -> bytes:
    """Return the content of the ONNX file, after verifying its SHA-256.

    Raises:
        ExportError: The file cannot be read or has another SHA-256.
    """
    return read_onnx(model.path, model.sha256, f"export {model.name} again")


def read_onnx(path: Path, sha256: str, hint: str) -> bytes:
    """Return the content of an ONNX file after verifying its SHA-256, and reject external data.

    An engine would look for external files relative to its working directory. They are not covered by the SHA-256, and
    could come from anyone.

    Raises:
        ExportError: The file cannot be read, has another SHA-256, or stores weights in other files.
    """
    content = read_verified(path, sha256, hint)
    if b"location" in content and EXTERNAL_DATA.search(content):
        raise ExportError(f"{path} keeps weights in other files; {hint}")
    return content


def read_verified(path: Path, sha256: str, hint: str) -> bytes:
    """Return the content of a file after verifying its SHA-256.

    Raises:
        ExportError: The file cannot be read or has another SHA-256. The message ends with `hint`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {words_of(error)}; {hint}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ExportError(f"{path} has sha256 {actual[:8]}… instead of {sha256[:8]}…; {hint}")
    return content


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ONNX file with the input `images`, float32 in [0, 1], and the output `logits`, float32.

    Intermediate tensors can have other types.
    """

    precision: str
    path: Path
    sha256: str
    models: Path
    """Folder of the models."""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.path.name.removesuffix(".onnx")

    @property
    def itself(self) -> bool:
        """Whether this is the model's original file rather than one derived from it."""
        return self.path.parent == self.models

    @property
    def command(self) -> str:
        """Command that creates the file and its TensorRT plan."""
        # --precision fp32 means the original file, whatever its precision is.
        precision = "fp32" if self.itself else self.precision
        return shlex.join(["bandlens", "export", self.name, "--precision", precision, "--out", str(self.models)])


def check_precision(precision: str) -> str:
    """Return `precision` if there are ONNX files of this precision.

    Raises:
        UnknownName: There is no such precision.
        UsageError: The precision is bf16, which has no file of its own.
    """
    if precision == "bf16":
        raise UsageError("bf16 is made of fp32 by a run, and has no file: name it in the study, precision = 'bf16'")
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    return precision


def save_onnx_file(model: Model, precision: str, content: bytes, provenance: Mapping[str, Any]) -> OnnxFile:
    """Write an ONNX file derived from the model's fp32 file, and its description; see `write_described`."""
    sha256 = hashlib.sha256(content).hexdigest()
    onnx_file = OnnxFile(check_precision(precision), _path(model, precision), sha256, model.path.parent)
    description = {"precision": precision, "sha256": sha256, "bytes": len(content), "made_from": model.sha256}
    write_described(onnx_file.path, content, description | dict(provenance))
    return onnx_file


def load_onnx_file(model: Model, precision: str) -> OnnxFile:
    """Locate a model's ONNX file of a precision, and check its description.

    `read_onnx_file` reads its content.

    Args:
        model: The exported model.
        precision: Precision of the file. fp32 means the original file, whatever its precision is.

    Raises:
        UnknownName: There is no such precision.
        ExportError: The file is missing, damaged, or derived from another fp32 file. The message contains the command
            that creates it.
    """
    if check_precision(precision) in ("fp32", model.precision):
        return OnnxFile(model.precision, model.path, model.sha256, model.path.parent)
    path, description = _path(model, precision), describe_onnx_file(model, precision)
    onnx_file = OnnxFile(precision, path, description["sha256"], model.path.parent)
    if description["made_from"] != model.sha256:
        raise ExportError(f"{path} was made from another export of {model.name}; {_hint(onnx_file)}")
    if not path.is_file() or path.stat().st_size != description["bytes"]:
        raise ExportError(f"{path} is missing or not as long as {_description_path(path)} says; {_hint(onnx_file)}")
    return onnx_file


def describe_onnx_file(model: Model, precision: str) -> dict[str, Any]:
    """Return the description of a file derived from the model's fp32 file.

    Raises:
        ExportError: The description is missing or damaged.
    """
    path = _path(model, precision)
    hint = _hint(OnnxFile(precision, path, "", model.path.parent))
    try:
        description: dict[str, Any] = parse_json(read_text(_description_path(path)))
        for key, kind in {"made_from": str, "sha256": str, "bytes": int}.items():
            if type(description[key]) is not kind:
                raise TypeError(f"{key} is {type(description[key]).__name__}")
    except FileNotFoundError:
        raise ExportError(f"{model.name} has no {precision} file in {path.parent}; {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{_description_path(path)} is damaged: {error}; {hint}") from error
    return description


def read_onnx_file(onnx_file: OnnxFile) -> bytes:
    """Return the content of the ONNX file, after verifying its SHA-256.

    Raises:
        ExportError: The file cannot be read or has another SHA-256. The message contains the command that creates it.
    """
    return read_onnx(onnx_file.path, onnx_file.sha256, _hint(onnx_file))


def _hint(onnx_file: OnnxFile) -> str:
    calibrated = onnx_file.precision == "int8" and not onnx_file.itself
    return f"run: {onnx_file.command}{' --calibration IMAGE_SET' if calibrated else ''}"


def _path(model: Model, precision: str) -> Path:
    return model.path.parent / precision / f"{model.name}.onnx"


def _description_path(path: Path) -> Path:
    return path.with_name(f"{path.name.rpartition('.')[0]}.json")
