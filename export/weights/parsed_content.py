"""Read a file of torch.save that a child process has parsed: containers from its description, and tensors."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import torch

from ...core.child_process import run_child
from ...core.errors import CheckpointError
from . import parse_process
from .parse_process import CONTENT_FILE, UNPACKED_FILE

MIN_TIMEOUT_S, TIMEOUT_S_PER_MB = 60.0, 0.1
"""Seconds that the child process may take: a minute, and what a disk takes that reads 10 MB in a second."""
MAPPINGS: dict[str, Callable[[], Any]] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "Size": torch.Size,
}
"""Kinds of nodes with parts that they cannot be among, since they are made of them at once."""


def read_in_child(path: Path) -> Any:
    """Parse a file of torch.save in a child process, and return its content: see `read.read`.

    Raises CheckpointError for a file that the process refuses, or that hangs or crashes it.
    """
    timeout_s = MIN_TIMEOUT_S + TIMEOUT_S_PER_MB * path.stat().st_size / 1e6
    with TemporaryDirectory(prefix="bandlens-weights-") as name:
        folder = Path(name)
        try:
            run_child(parse_process.__name__, folder, str(path), timeout_s=timeout_s, error_class=CheckpointError)
        except (TimeoutError, ChildProcessError) as error:
            raise CheckpointError(
                f"cannot read weights from {path}: its parser {error}; fetch the file again, or, if you trust its "
                "author, add --trust"
            ) from error
        root, *nodes = json.loads((folder / CONTENT_FILE).read_text(encoding="ascii"))
        with path.open("rb") as weights, (folder / UNPACKED_FILE).open("rb") as unpacked:
            return _rebuild(root, nodes, weights, unpacked)


def _rebuild(root: Any, nodes: list[list[Any]], weights: BinaryIO, unpacked: BinaryIO) -> Any:
    """Make the content of the nodes that `parse_process.describe` lists."""
    values: dict[int, Any] = {}

    def value_of(part: Any) -> Any:
        if not isinstance(part, list):
            return part
        (place,) = part
        if place not in values:
            make(place, *nodes[place])
        return values[place]

    def make(place: int, kind: str, *parts: Any) -> None:
        if kind in MAPPINGS:
            values[place] = mapping = MAPPINGS[kind]()  # before its parts, among which it may be itself
            for key, value in zip(parts[::2], parts[1::2], strict=True):
                mapping[value_of(key)] = value_of(value)
        elif kind == "list":
            values[place] = entries = list[Any]()
            entries.extend(value_of(part) for part in parts)
        elif kind in COLLECTIONS:
            values[place] = COLLECTIONS[kind]([value_of(part) for part in parts])
        elif kind == "tensor":
            storage, offset, size, stride = parts
            dtype, memory = value_of(storage)
            values[place] = torch.empty(0, dtype=dtype).set_(memory, offset, size, stride)
        elif kind == "storage":
            dtype, size, offset, is_unpacked = parts
            values[place] = getattr(torch, dtype), _read_storage(unpacked if is_unpacked else weights, offset, size)
        else:
            values[place] = PLAIN[kind](*parts)

    return value_of(root)


def _read_storage(file: BinaryIO, offset: int, size: int) -> torch.UntypedStorage:
    elements = torch.empty(size, dtype=torch.uint8)
    file.seek(offset)
    if file.readinto(elements.numpy().data) != size:  # type: ignore[attr-defined]
        raise EOFError("it became shorter while it was read")
    return elements.untyped_storage()


def _stand_in(name: str) -> Any:
    """A class of that name, which does nothing, or a type of elements, such as torch.float32."""
    module, _, attribute = name.partition(".")
    dtype = getattr(torch, attribute, None) if module == "torch" else None
    return dtype if isinstance(dtype, torch.dtype) else type(name, (), {})


PLAIN: dict[str, Callable[..., Any]] = {
    "bytes": lambda text: text.encode("latin-1"),
    "class": _stand_in,
    "complex": complex,
    "dtype": lambda name: getattr(torch, name),
    "object": lambda name: type(name, (), {})(),
}
"""Kind of a node with parts that are no nodes -> the value."""
