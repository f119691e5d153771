"""Parse a torch.save file in a child process, and describe its content.

    python -P -m bandlens.export.weights.parse_process PARENT FOLDER FILE

A malicious or damaged file can make a pickle parser hang, crash or exhaust memory. In that case only the child process
ends, and the parent reports an error. The process does not import torch, so that it starts in a tenth of a second.

FOLDER receives two files: content.json, a list of nodes, and unpacked.bin, the elements of compressed storages. A node
consists of its kind and its parts. A part is a number, text, true, false, null, or a list with one number, the index of
another node. The first entry of content.json is the part that represents the whole content. Nodes refer to each other
by index, because a pickle can contain the same container in several places, and a container can contain itself.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, BinaryIO

from ...core.child_process import limit_memory, serve_parent
from ...core.errors import CheckpointError, amount
from .pickles import (
    DType,
    Storage,
    TensorView,
    explain_damage,
    is_archive,
    read_archive,
    read_legacy,
    refuse_other_archives,
)

CONTENT_FILE, UNPACKED_FILE = "content.json", "unpacked.bin"
MAX_MEMORY_BYTES = 1 << 31
"""Memory limit of the child process.

Tensor elements are not loaded into it, and everything else in training checkpoints takes megabytes.
"""
MAX_LEVELS = 100
"""Maximum nesting depth of containers.

Real files have about ten levels, and Python's recursion limit is a thousand.
"""
MAX_CONTENT_BYTES = 1 << 26
"""Maximum size of content.json. For a ResNet-50 with its optimizer, it is less than a megabyte."""


def describe(content: Any) -> list[Any]:
    """Return the root part of the content, followed by a list of all nodes.

    Raises:
        UnpicklingError: Containers are nested too deeply.
    """
    nodes: list[Any] = []
    places: dict[int, int] = {}

    def part(value: Any, level: int) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if level > MAX_LEVELS:
            raise pickle.UnpicklingError(f"it is nested more than {MAX_LEVELS} levels deep")
        place = places.get(id(value))
        if place is None:
            place = places[id(value)] = len(nodes)
            node: list[Any] = []
            nodes.append(node)  # append it before describing its parts, because they may refer to it
            node += parts(value, level + 1)
        return [place]

    def parts(value: Any, level: int) -> list[Any]:
        match value:
            case dict():
                return [type(value).__name__, *(part(each, level) for pair in value.items() for each in pair)]
            case list() | tuple() | set() | frozenset():
                return [type(value).__name__, *(part(each, level) for each in value)]
            case TensorView():
                return ["tensor", part(value.storage, level), value.offset, list(value.size), list(value.stride)]
            case Storage():
                return ["storage", value.dtype.name, value.size, value.offset, value.is_unpacked]
            case DType():
                return ["dtype", value.name]
            case complex():
                return ["complex", value.real, value.imag]
            case bytes() | bytearray():
                return ["bytes", value.decode("latin-1")]
            case type():
                return ["class", value.__name__]
        return ["object", type(value).__name__]

    root = part(content, 0)
    return [root, *nodes]


def _parse(folder: Path, name: str) -> None:
    path = Path(name)
    with explain_damage(path):
        try:
            with limit_memory(MAX_MEMORY_BYTES), (folder / UNPACKED_FILE).open("wb") as unpacked:
                text = json.dumps(describe(_read(path, unpacked)))
        except MemoryError as error:
            raise CheckpointError(
                f"cannot read weights from {path}: parsing it takes more than {amount(MAX_MEMORY_BYTES)} of memory; "
                "fetch the file again, or, if you trust its author, add --trust"
            ) from error
        if len(text) > MAX_CONTENT_BYTES:
            raise pickle.UnpicklingError(f"it holds more than {amount(MAX_CONTENT_BYTES)} beside its tensors")
        (folder / CONTENT_FILE).write_text(text, encoding="ascii")


def _read(path: Path, unpacked: BinaryIO) -> Any:
    with path.open("rb") as file:
        if not is_archive(file.read(4)):
            return read_legacy(file, path)
    refuse_other_archives(path)
    return read_archive(path, unpacked)


if __name__ == "__main__":
    serve_parent(_parse)
