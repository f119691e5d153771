"""A user's probe and its identity: its file, the modules beside it that it imports, and what the study says it uses."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UsageError


class ProbeSource(NamedTuple):
    """What a probe of a user's is made of."""

    file: Path
    uses: tuple[str, ...] = ()
    """Files beside it that it reads, or imports by a name that is made as it runs: paths relative to its folder, where
    `*` stands for any name."""


def source_of(name: str, table: Mapping[str, Any], folder: Path) -> ProbeSource:
    """The source of the probe that a study in `folder` describes by a table with `file`, and perhaps `uses`."""
    uses = table.get("uses", [])
    listed = [uses] if isinstance(uses, str) else uses
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise UsageError(f"probe {name}: uses must be a list of files beside the probe's, not {uses!r}")
    return ProbeSource(folder / str(table["file"]), tuple(listed))


def source_digest(source: ProbeSource) -> str:
    """sha256 over the names and contents of the source's files, in a fixed order."""
    digest = hashlib.sha256()
    for path in source_files(source):
        digest.update(f"{path.relative_to(source.file.parent).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def source_files(source: ProbeSource) -> list[Path]:
    """The file, what it uses, and every module beside it that these import, directly or not, sorted."""
    root, seen = source.file.parent, set[Path]()
    pending = [source.file, *(path for pattern in source.uses for path in _used(source.file, pattern))]
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            if current == source.file or current.suffix == ".py":
                pending += [path for module in _imports(root, current) for path in _beside(root, module)]
    return sorted(seen)


def _used(file: Path, pattern: str) -> list[Path]:
    """The files in the folder of the probe's file that fit."""
    named = Path(pattern)
    try:
        below = named.parts and ".." not in named.parts and not named.is_absolute()
        found = [path for path in file.parent.glob(pattern) if path.is_file()] if below else []
    except (OSError, ValueError):  # a path that no file can have
        found = []
    if not found:
        raise UsageError(f"{file} uses '{pattern}', and its folder has no such file; uses = […] names files beside it")
    return found


def _imports(root: Path, file: Path) -> Iterator[tuple[str, ...]]:
    """The modules that a file imports, or may import, as paths of names from the root."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); make it readable, or name another file") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{file} is not Python: {error}") from None
    here = file.relative_to(root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = here[: -node.level] if node.level else ()
            module = (*package, *(node.module.split(".") if node.module else ()))
            yield module
            yield from ((*module, alias.name) for alias in node.names)


def _beside(root: Path, module: tuple[str, ...]) -> Iterator[Path]:
    """The files below the root that an import of the module runs: the packages that it lies in, and itself."""
    for length in range(1, len(module) + 1):
        base = root.joinpath(*module[:length])
        yield from (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
