"""Load the content of a torch.save file that a child process has parsed: rebuild containers, and read tensors."""

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
"""Timeout of the child process: one minute, plus the time to read the file at 10 MB/s."""
MAPPINGS: dict[str, Callable[[], Any]] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "Size": torch.Size,
}
"""Kinds of immutable or unordered containers.

They are built from their complete parts, so they cannot contain themselves, unlike mappings and lists.
"""


def read_in_child(path: Path) -> Any:
    """Parse a torch.save file in a child process and return its content; see `read.read`.

    Raises:
        CheckpointError: The child process rejected the file, timed out or crashed.
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
    """Build the content from the nodes that `parse_process.describe` returned."""
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
            values[place] = mapping = MAPPINGS[kind]()  # before its parts, because it may contain itself
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
    """Return the torch dtype of this name, such as torch.float32, or an empty class of this name."""
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
"""Kind of node without references to other nodes -> function that creates its value."""
