"""A user's file and its identity: the file, the modules beside it that it imports, and what the study says it uses."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .core.errors import UsageError

TABLE_KEYS = ("file", "function", "uses")
"""Keys in the table of a user's probe or measure that say where its function is, and are no parameters of it."""


class UserSource(NamedTuple):
    """The files that a function of a user's is made of."""

    file: Path
    uses: tuple[str, ...] = ()
    """Files beside it that it reads, or imports by a name that is made as it runs: paths relative to its folder, where
    `*` stands for any name."""


def parse_source(what: str, table: Mapping[str, Any], folder: Path) -> UserSource:
    """The source of `what`, such as `probe blur`, which a study in `folder` describes by a table with `file`, and
    perhaps `uses`.
    """
    uses = table.get("uses", [])
    patterns = [uses] if isinstance(uses, str) else uses
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{what}: uses must be a list of files beside its file, not {uses!r}")
    return UserSource(folder / str(table["file"]), tuple(patterns))


def source_digest(source: UserSource) -> str:
    """sha256 over the names and contents of the source's files, in a fixed order."""
    digest = hashlib.sha256()
    for path, name in zip(source_files(source), source_names(source), strict=True):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def source_names(source: UserSource) -> tuple[str, ...]:
    """The source's files, relative to the folder of the file."""
    return tuple(path.relative_to(source.file.parent).as_posix() for path in source_files(source))


def source_files(source: UserSource) -> list[Path]:
    """The file, what it uses, and every module beside it that these import, directly or not, sorted."""
    root, files = source.file.parent, set[Path]()
    pending = [source.file, *(path for pattern in source.uses for path in _matching_files(source.file, pattern))]
    while pending:
        current = pending.pop()
        if current not in files:
            files.add(current)
            if current == source.file or current.suffix == ".py":
                pending += [path for module in _imported_modules(root, current) for path in _module_files(root, module)]
    return sorted(files)


def _matching_files(file: Path, pattern: str) -> list[Path]:
    """The files in the folder of the user's file that match the pattern."""
    path = Path(pattern)
    try:
        is_below = path.parts and ".." not in path.parts and not path.is_absolute()
        matches = [match for match in file.parent.glob(pattern) if match.is_file()] if is_below else []
    except (OSError, ValueError):  # no file can have such a path
        matches = []
    if not matches:
        raise UsageError(f"{file} uses '{pattern}', and its folder has no such file; uses = […] names files beside it")
    return matches


def _imported_modules(root: Path, file: Path) -> Iterator[tuple[str, ...]]:
    """The modules that a file imports, or may import, as paths of names from the root."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); make it readable, or name another file") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{file} is not Python: {error}") from None
    place = file.relative_to(root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = place[: -node.level] if node.level else ()
            module = (*package, *(node.module.split(".") if node.module else ()))
            yield module
            yield from ((*module, alias.name) for alias in node.names)


def _module_files(root: Path, module: tuple[str, ...]) -> Iterator[Path]:
    """The files below the root that an import of the module runs: the packages that it lies in, and itself."""
    for length in range(1, len(module) + 1):
        base = root.joinpath(*module[:length])
        yield from (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
