"""The files of exported models in their folder, and NAME.json beside each, which describes it. Free of torch.

NAME.onnx is the model itself: the fp32 file, or a finished one at its own precision. Its NAME.json holds the fields of
`Model`, with `path` relative to the folder, and how the export was made: `bytes`, `parity`, `opset`, `torch`, the
weights' `dropped` keys, the lines `adapted` on what was added to the network, `class_names` (or those of labels) where
they are known, and `training_keys`, the keys of the images that a head was trained on, 16 hex digits each.

Files made of the fp32 file lie in a folder per precision, fp16/NAME.onnx and int8/NAME.onnx. A NAME.json beside each
holds `precision`, `sha256`, `bytes`, `made_from` (sha256 of the fp32 file) and how the file was made: `versions`,
`parity` with the fp32 file, and for int8 `calibration`.
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
"""Names that can name a file, with an ending, on any file system. A comma separates the two names of a comparison."""
EXTERNAL_DATA = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""The key of an ONNX tensor's place in another file; its tag and length can be written in several ways."""
PRECISIONS = ("fp32", "fp16", "int8")
"""The precisions of ONNX files."""
GREY = "takes grey images: the mean of red, green and blue"
"""The line on a network of one channel, which its description keeps as `adapted`."""
ONE_LOGIT = "gives one logit: exported as a classifier of two, which answers 1 where it is above 0"
"""The line on a network of one logit."""
LABEL_SETS = "gives {0} labels: exported as a classifier of their sets, which have each label whose logit is above 0"
"""The line on a network of several labels."""
FUNCTION = "function"
"""The architecture of every model that is a function of Python, and the ending of its file: see `export.functions`."""
OWN_NORMALIZATION = "its own"
"""The normalization of every function: it gets images in [0, 1]."""
ENDINGS = (".onnx", f".{FUNCTION}")
"""The endings of the files of models."""
BATCH = "batch"
"""The name of a model's only open dimension, the number of images that it takes at once."""
MOST_CLASSES = 1 << 16
"""The number of classes that predictions can be stored for: they are stored in 16 bits."""
MOST_PIXELS = 4096
"""The largest width and height of a model's images, in pixels."""
MOST_FEATURES = 1_000_000
"""The largest number of values that a network may give for an image, before a head makes classes of them."""
FINISHED = "onnx"
"""The architecture of every model that came as an ONNX file: no two of them need be alike."""
Channels = tuple[float, float, float]
"""A number for each of red, green and blue."""
Normalization = tuple[Channels, Channels]
"""Mean and standard deviation per RGB channel, for images in [0, 1], by which a network's images are normalized."""
NORMALIZATIONS: dict[str, Normalization] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> normalization."""


def home() -> Path:
    """`$BANDLENS_HOME`, or ~/.cache/bandlens."""
    return Path(os.environ.get("BANDLENS_HOME") or Path.home() / ".cache" / "bandlens")


def models_folder() -> Path:
    return home() / "models"


def normalization_name(normalization: Normalization) -> str:
    """The name of a normalization, or its numbers where it has none."""
    mean, std = normalization
    names = (name for name, numbers in NORMALIZATIONS.items() if numbers == normalization)
    return next(names, f"mean {', '.join(map(repr, mean))}; std {', '.join(map(repr, std))}")


def normalization_option(name: str) -> str:
    """The same as `--normalization` takes it: a name, or MEAN:STD."""
    return name.removeprefix("mean ").replace("; std ", ":").replace(", ", ",")


def check_name(name: str, kind: str = "model") -> str:
    """The name, if it can name a file, and so a model or a category of them; UsageError otherwise."""
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a {kind}; use letters, digits, spaces and . _ + - = ( ), a letter or digit first"
        )
    return name


def save_model(model: Model, content: bytes, provenance: Mapping[str, Any]) -> None:
    """Write the ONNX file to `model.path` and its description beside it, each in one step; see `write_described`."""
    write_described(model.path, content, asdict(model) | {"path": model.path.name, "bytes": len(content), **provenance})


def write_described(path: Path, content: bytes, description: Mapping[str, Any]) -> None:
    """Write an ONNX file and its description beside it, each in one step; UsageError where that cannot be."""
    with writing(path, "choose another folder with --out"):
        write_bytes(path, content)
        write_bytes(_description_path(path), json.dumps(description, indent=1).encode())


def model_names(folder: Path | None) -> list[str]:
    """The names of the models in a folder (default: the models folder), in alphabetical order."""
    descriptions = (folder or models_folder()).glob("*.json")
    return sorted(file.stem for file in descriptions if any(file.with_suffix(ending).exists() for ending in ENDINGS))


def load_model(folder: Path | None, name: str) -> Model:
    """The model of that name in a folder (default: the models folder).

    Raises UnknownName if there is none, ExportError if its description or its file is damaged.
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
        # Files are named by these, and in a folder of somebody else they must not lead out of it.
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
    """The description of a model; UnknownName if there is none, ValueError if it is no JSON."""
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
    """The keys of the images that the model's head was trained on; none where it has no head, or one of prompts.

    Raises ExportError for a description whose keys are none.
    """
    digits = describe_model(model.path.parent, model.name).get("training_keys", "")
    try:
        return [number for (number,) in struct.iter_unpack(">Q", bytes.fromhex(digits))]
    except (ValueError, TypeError, struct.error) as error:
        path = _description_path(model.path)
        raise ExportError(f"{path} is damaged: training_keys are none; export {model.name} again") from error


def categorize_model(model: Model, category: str) -> Model:
    """The model in a category of its own, which is kept with it.

    Studies put it in that from then on: charts colour by it, and `category:NAME` names all models of it. The user's own
    models are in `own` at first. Raises UsageError for a category that cannot name a file, and where the folder cannot
    be written.
    """
    update_description(model, {"category": check_name(category, "category")})
    return replace(model, category=category)


def update_description(model: Model, changes: dict[str, Any]) -> None:
    """Keep other values of a model beside its file; UsageError where the folder cannot be written."""
    path, description = _description_path(model.path), describe_model(model.path.parent, model.name) | changes
    with writing(path, "make its folder writable"):
        write_bytes(path, json.dumps(description, indent=1).encode())


def verify_model(model: Model) -> bytes:
    """The ONNX file's content, if its sha256 is the model's; ExportError otherwise."""
    return read_onnx(model.path, model.sha256, f"export {model.name} again")


def read_onnx(path: Path, sha256: str, hint: str) -> bytes:
    """The content of an ONNX file as `read_verified` gives it; ExportError if it keeps weights in other files.

    Engines would look for those files wherever they happen to run: they are no part of the sha256, and may be anyone's.
    """
    content = read_verified(path, sha256, hint)
    if b"location" in content and EXTERNAL_DATA.search(content):
        raise ExportError(f"{path} keeps weights in other files; {hint}")
    return content


def read_verified(path: Path, sha256: str, hint: str) -> bytes:
    """A file's content, if it has this sha256; otherwise ExportError, which ends with `hint`."""
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
    if precision == "bf16":
        raise UsageError("bf16 is made of fp32 by a run, and has no file: name it in the study, precision = 'bf16'")
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    return precision


def save_onnx_file(model: Model, precision: str, content: bytes, provenance: Mapping[str, Any]) -> OnnxFile:
    """Write an ONNX file that was made from the model's fp32 file, as `write_described` does."""
    sha256 = hashlib.sha256(content).hexdigest()
    onnx_file = OnnxFile(check_precision(precision), _path(model, precision), sha256, model.path.parent)
    description = {"precision": precision, "sha256": sha256, "bytes": len(content), "made_from": model.sha256}
    write_described(onnx_file.path, content, description | dict(provenance))
    return onnx_file


def load_onnx_file(model: Model, precision: str) -> OnnxFile:
    """The model's ONNX file of a precision; `read_onnx_file` reads and verifies its content.

    fp32 stands for the model itself, whatever precision that has.

    Raises UnknownName for an unknown precision; ExportError, with the command to run, for a file that is missing,
    damaged, or made from another fp32 file than the model's.
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
    """The description of a file made from the model's fp32 file; ExportError if it is missing or damaged."""
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
    """The ONNX file's content, if its sha256 is the recorded one; ExportError, with the command to run, otherwise."""
    return read_onnx(onnx_file.path, onnx_file.sha256, _hint(onnx_file))


def _hint(onnx_file: OnnxFile) -> str:
    calibrated = onnx_file.precision == "int8" and not onnx_file.itself
    return f"run: {onnx_file.command}{' --calibration IMAGE_SET' if calibrated else ''}"


def _path(model: Model, precision: str) -> Path:
    return model.path.parent / precision / f"{model.name}.onnx"


def _description_path(path: Path) -> Path:
    return path.with_name(f"{path.name.rpartition('.')[0]}.json")
