"""Exported models on disk: NAME.onnx, and NAME.json that says what it is. Free of torch.

NAME.json holds the fields of `Model`, with `path` relative to its folder, and how the export was made: `bytes`,
`parity`, `opset`, `torch` and the weights' `dropped` keys.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import ExportError, UnknownName, UsageError
from ..records import Crop, Model
from ..untrusted import as_record, parse_json, read_text, without_secrets
from .files import models_folder, write_bytes

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
"""What can name a file, with an ending, on any file system."""
ELSEWHERE = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""The key of an ONNX tensor's place in another file, with every way to write its tag and length."""
BATCH = "batch"
"""The name of a model's only open dimension: how many images it takes at once."""
MOST_CLASSES = 1 << 16
"""As predictions are kept."""
FINISHED = "onnx"
"""The architecture of every model that came as an ONNX file: no two of them need be alike."""
LARGEST = 1 << 24
"""Bytes of a description."""


def check_name(name: str) -> str:
    """The name, if it can name a file; UsageError otherwise."""
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot name a model; use letters, digits, and . _ + -")
    return name


def save_model(model: Model, content: bytes, made: Mapping[str, Any]) -> None:
    """Write the ONNX file to `model.path` and its description beside it, each in one step; or ExportError."""
    description = asdict(model) | {"path": model.path.name, "bytes": len(content), **made}
    try:
        write_bytes(model.path, content)
        write_bytes(_description_path(model.path.parent, model.name), json.dumps(description, indent=1).encode())
    except OSError as error:
        raise ExportError(f"cannot write {model.path}: {error.strerror}; make room or choose another folder") from error


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
        model, size = as_record(Model, description | {"crop": None}), description["bytes"]
        if description.get("crop") is not None:
            model = replace(model, crop=as_record(Crop, description["crop"]))
        # Files are named by these: in another's folder they must not lead out of it.
        if (model.name, model.path) != (name, Path(f"{name}.onnx")):
            raise ValueError(f"it is of {model.name}, in {model.path}")
        if model.image_size < 1 or not 1 <= model.classes <= MOST_CLASSES:
            raise ValueError(f"{model.classes} classes of images of {model.image_size} pixels")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is damaged: {error}; export {name} again") from error
    model = replace(model, path=folder / model.path, source=without_secrets(model.source))
    if not model.path.is_file() or model.path.stat().st_size != size:
        raise ExportError(f"{model.path} is missing or not as long as {path} says; export {name} again")
    return model


def describe_model(folder: Path, name: str) -> dict[str, Any]:
    """What the description of that model says; UnknownName if there is none, ValueError if it is no JSON."""
    path = _description_path(folder, name)
    if not (MODEL_NAME.fullmatch(name) and path.is_file()):
        raise UnknownName("model", name, model_names(folder), f"export it into {folder} with `bandlens export`")
    return dict(parse_json(read_text(path, LARGEST)))


def verify_model(model: Model) -> bytes:
    """The ONNX file's content, if its sha256 is the model's; ExportError otherwise."""
    return read_onnx(model.path, model.sha256, f"export {model.name} again")


def read_onnx(path: Path, sha256: str, again: str) -> bytes:
    """`read_verified` of an ONNX file that is whole.

    ONNX can name other files for its weights, which engines look for where they happen to run: those are no part of the
    sha256, and anyone's.
    """
    content = read_verified(path, sha256, again)
    if b"location" in content and ELSEWHERE.search(content):
        raise ExportError(f"{path} keeps weights in other files; {again}")
    return content


def read_verified(path: Path, sha256: str, again: str) -> bytes:
    """A file's content, if it has this sha256; ExportError, which ends with what to do `again`, otherwise."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}; {again}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ExportError(f"{path} has sha256 {found[:8]}… instead of {sha256[:8]}…; {again}")
    return content


def _description_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"  # not with_suffix: names hold dots
