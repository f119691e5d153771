"""A user's own probe: a Python file with a function from a batch of images and parameters to a batch of images.

    def blur(images, sigma):
        ...
        return images

`images` is a NumPy array of the function's own, (n, 3, size, size) float32 in [0, 1]. It is so in a run on a GPU too:
one file serves every engine. What comes back is a NumPy or CuPy array of the same shape, finite and in [0, 1]; a
function that computes with CuPy begins with `cupy.asarray(images)`. Every image must be treated by itself: batches are
cut as it suits the engine. The probe's identity is the source of its file and of the modules beside it that it imports,
so that an edit re-runs exactly what it changes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import ProbeError, UsageError
from ..records import Condition, digest_of
from .arrays import Array, to_numpy
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, Value

Probe = Callable[..., Array]


def user_family(name: str, file: Path, function: str | None = None) -> Family:
    """The family of `function` (default: the probe's name) in `file`; parameters after the first are the probe's."""
    where = f"probe {name}"
    if not file.is_file():
        raise UsageError(f"{where}: no file {file}; `file` is relative to the study's folder")
    function = str(function or name)
    version = int(digest_of(source_digest(file), function)[:15], 16)
    probe = getattr(_load(file, where), function, None)
    if not callable(probe):
        raise UsageError(f"{where}: {file} has no function {function}(images, …)")
    return Family(
        name,
        (probe.__doc__ or f"{function} of {file.name}").strip().splitlines()[0],
        version,
        parameters=_parameters(probe, f"{where}: {function} in {file}"),
        perturb=_perturb(probe, where),
    )


def _parameters(probe: Probe, where: str) -> tuple[Parameter, ...]:
    given = list(signature(probe).parameters.values())
    if not given:
        raise UsageError(f"{where} takes no images; its first parameter is the batch")
    for parameter in given[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(f"{where} takes {parameter}; name each parameter")
    return tuple(Parameter(p.name, _parse, () if p.default is p.empty else (p.default,)) for p in given[1:])


def source_digest(file: Path) -> str:
    """sha256 over the file and every module beside it that it imports, directly or not, in a fixed order."""
    digest = hashlib.sha256()
    for path in source_files(file):
        digest.update(f"{path.relative_to(file.parent).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def source_files(file: Path) -> list[Path]:
    """The file and every module beside it that it imports, directly or not, sorted."""
    root, pending, seen = file.parent, [file], set[Path]()
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            pending += [path for module in _imports(root, current) for path in _beside(root, module)]
    return sorted(seen)


def _imports(root: Path, file: Path) -> Iterator[tuple[str, ...]]:
    """The modules that a file imports, or may import, as paths of names from the root."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
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


def _load(file: Path, where: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bandlens_probe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{where}: {file} does not end in .py")
    module = importlib.util.module_from_spec(spec)
    with _importable(file.parent):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise UsageError(f"{where}: {file} does not load: {_one_line(error)}") from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of the folder be imported, and forget them afterwards: another probe may have some of those names."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            place = getattr(sys.modules[name], "__file__", None)
            if place and Path(place).is_relative_to(folder):
                del sys.modules[name]


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _parse(value: Any) -> Value:
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not finite:
        raise ValueError(f"must be a finite number or a string, not {value!r}")
    return value


def _perturb(probe: Probe, where: str) -> Callable[..., Iterator[tuple[Condition, Array]]]:
    def perturb(
        xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
    ) -> Iterator[tuple[Condition, Array]]:
        pixels = to_numpy(batch.pixels)
        for condition in conditions:
            images = unit_range(np, pixels, np.empty(pixels.shape, dtype=np.float32))
            made = _checked(_called(probe, images, dict(condition.parameters), where), pixels.shape, where)
            out = buffer()
            out[...] = xp.asarray(to_numpy(made))
            yield condition, out

    return perturb


def _called(probe: Probe, images: Array, parameters: Mapping[str, Value], where: str) -> Array:
    try:
        return probe(images, **parameters)
    except (Exception, SystemExit) as error:
        raise ProbeError(f"{where} failed: {_one_line(error)}") from error


def _checked(result: Array, expected: tuple[int, ...], where: str) -> Array:
    """What the function gave, or an error that says what was expected."""
    shape = getattr(result, "shape", None)
    kind = getattr(getattr(result, "dtype", None), "kind", None)  # torch's tensors have a dtype of another kind
    if shape != expected or kind is None:
        got = f"shape {shape}" if kind is not None else type(result).__name__
        raise ProbeError(f"{where} returned {got}; expected an array of shape {expected}")
    if kind not in "fiu":
        raise ProbeError(f"{where} returned {result.dtype} values; expected numbers in [0, 1]")
    low, high = float(result.min()), float(result.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ProbeError(
            f"{where} returned values in [{low:.4g}, {high:.4g}]; expected finite values in [0, 1], so clip them"
        )
    return result
