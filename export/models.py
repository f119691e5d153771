"""Exported models on disk: NAME.onnx, and NAME.json that describes it. Free of torch.

NAME.json holds the fields of `Model`, with `path` relative to its folder, and how the export was made: `bytes`,
`parity`, `opset`, `torch`, the weights' `dropped` keys, the lines `adapted` on what was added to the network,
`class_names` (or those of labels) where they are known, and `training_keys`, the keys of the images that a head was
trained on, 16 hex digits each.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..core.errors import ExportError, UnknownName, UsageError, some_of, unwritable
from ..core.records import Crop, Head, Model, label_set_in_words
from ..core.untrusted import as_record, parse_json, read_text, without_secrets
from .files import models_folder, write_bytes

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
BATCH = "batch"
"""The name of a model's only open dimension, the number of images that it takes at once."""
MOST_CLASSES = 1 << 16
"""The number of classes that predictions can be stored for: they are stored in 16 bits."""
FINISHED = "onnx"
"""The architecture of every model that came as an ONNX file: no two of them need be alike."""
MOST_DESCRIPTION_BYTES = 1 << 26
"""The most bytes that a description may have: with the keys of a few million training images."""


def check_name(name: str, kind: str = "model") -> str:
    """The name, if it can name a file, and so a model or a category of them; UsageError otherwise."""
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a {kind}; use letters, digits, spaces and . _ + - = ( ), a letter or digit first"
        )
    return name


def save_model(model: Model, content: bytes, provenance: Mapping[str, Any]) -> None:
    """Write the ONNX file to `model.path` and its description beside it, each in one step; or ExportError."""
    write_described(model.path, content, asdict(model) | {"path": model.path.name, "bytes": len(content), **provenance})


def write_described(path: Path, content: bytes, description: Mapping[str, Any]) -> None:
    """Write an ONNX file and its description beside it, each in one step; or ExportError."""
    try:
        write_bytes(path, content)
        description_path = _description_path(path.parent, path.name.removesuffix(".onnx"))
        write_bytes(description_path, json.dumps(description, indent=1).encode())
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}; make room or choose another folder") from error


def model_names(folder: Path | None = None) -> list[str]:
    """The names of the models in a folder, in alphabetical order."""
    descriptions = (folder or models_folder()).glob("*.json")
    return sorted(path.stem for path in descriptions if path.with_suffix(".onnx").exists())


def load_model(folder: Path | None, name: str) -> Model:
    """The model of that name in `folder` (default: the models folder).

    Raises UnknownName if there is none, ExportError if its description or its file is damaged.
    """
    folder = folder or models_folder()
    path = _description_path(folder, name)
    try:
        description = describe_model(folder, name)
        model, size = as_record(Model, description | {"crop": None, "head": None}), description["bytes"]
        if description.get("crop") is not None:
            model = replace(model, crop=as_record(Crop, description["crop"]))
        if description.get("head") is not None:
            model = replace(model, head=as_record(Head, description["head"]))
        # Files are named by these, and in a folder of somebody else they must not lead out of it.
        if (model.name, model.path) != (name, Path(f"{name}.onnx")):
            raise ValueError(f"it is of {model.name}, in {model.path}")
        if model.image_size < 1 or not 1 <= model.classes <= MOST_CLASSES:
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
    path = _description_path(folder, name)
    if not (MODEL_NAME.fullmatch(name) and path.is_file()):
        hint = f"export it into {folder} with `bandlens export`"
        raise UnknownName("model", name, model_names(folder), hint)
    return dict(parse_json(read_text(path, MOST_DESCRIPTION_BYTES)))


def class_names_of(model: Model) -> list[str] | None:
    """The names of a model's classes in the order of its logits, where its description has them; else None.

    Raises ExportError for a description whose names are not one a class, or one a label.
    """
    path = _description_path(model.path.parent, model.name)
    names, count = describe_model(model.path.parent, model.name).get("class_names"), model.named[0]
    if names is None:
        return None
    if not (isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names)):
        raise ExportError(f"{path} is damaged: class_names are not {count} texts; export {model.name} again")
    if not model.multilabel:
        return names
    return [
        label_set_in_words(name for label, name in enumerate(names) if number >> label & 1)
        for number in range(model.classes)
    ]


def training_keys_of(model: Model) -> list[int]:
    """The keys of the images that the model's head was trained on; none where it has no head, or one of prompts.

    Raises ExportError for a description whose keys are none.
    """
    folder = model.path.parent
    digits = describe_model(folder, model.name).get("training_keys", "")
    try:
        return [number for (number,) in struct.iter_unpack(">Q", bytes.fromhex(digits))]
    except (ValueError, TypeError, struct.error) as error:
        path = _description_path(folder, model.name)
        raise ExportError(f"{path} is damaged: training_keys are none; export {model.name} again") from error


def name_classes(model: Model, names: Sequence[str]) -> None:
    """Keep the names of the model's classes, or of its labels.

    Raises UsageError unless each has one of its own, and where the folder cannot be written.
    """
    count, kind = model.named
    if len(names) != count:
        raise UsageError(
            f"{len(names)} names were given for the {count} {kind} of {model.name}, whose names stay as they were; "
            "give one name for each, in the order of the logits"
        )
    check_distinct(names, f"{kind} of {model.name}")
    _describe_again(model, {"class_names": list(names)})


def check_distinct(names: Sequence[str], kind: str) -> None:
    """UsageError unless each name stands once: labels are matched by names."""
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"several {kind} are called {some_of(duplicates)}; give each its own name")


def categorize_model(model: Model, category: str) -> Model:
    """The model in a category of its own, which is kept with it.

    Studies put it in that from then on: charts colour by it, and `category:NAME` names all models of it. The user's own
    models are in `own` at first. Raises UsageError for a category that cannot name a file, and where the folder cannot
    be written.
    """
    _describe_again(model, {"category": check_name(category, "category")})
    return replace(model, category=category)


def _describe_again(model: Model, changes: dict[str, Any]) -> None:
    folder = model.path.parent
    path, description = _description_path(folder, model.name), describe_model(folder, model.name) | changes
    try:
        write_bytes(path, json.dumps(description, indent=1).encode())
    except OSError as error:
        raise unwritable(path, error, "make its folder writable") from error


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
        raise ExportError(f"cannot read {path}: {error.strerror}; {hint}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ExportError(f"{path} has sha256 {actual[:8]}… instead of {sha256[:8]}…; {hint}")
    return content


def _description_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"  # not with_suffix: names hold dots
