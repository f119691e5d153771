"""A user's own probe: a Python file with a function from a batch of images and parameters to a batch of images.

    def blur(images, sigma):
        ...
        return images

`images` is a NumPy array of the function's own, (n, 3, size, size) float32 in [0, 1]. It is so in a run on a GPU too:
one file serves every engine. What comes back is an array of NumPy or CuPy, or a tensor of torch, of the same shape,
finite and in [0, 1]; a function that computes with CuPy begins with `cupy.asarray(images)`. The probe's identity is the
source of its file and of the modules beside it that it imports, so that an edit re-runs exactly what it changes.

Every image must be treated by itself: batches are cut as it suits the engine. What a built-in probe has, a function is
given under reserved names (see GIVEN). One that takes `rng` gets, for each image, a generator that belongs to the seed,
the image and the condition, so that nothing depends on batch, order or machine:

    def salt_and_pepper(images, share, rng):
        dice = rng.random(images.shape[2:])
        images[:, :, dice < share / 2] = 0
        images[:, :, dice > 1 - share / 2] = 1
        return images

Whatever the function raises, GeneratorExit and SystemExit included, ends its cells with an error in one line, and what
it prints goes to standard error. What ends the process itself, such as os._exit, ends the run; the next one goes on.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BandlensError, ProbeError, UsageError
from ..records import Condition, digest_of
from ..untrusted import one_line
from .arrays import Array, to_numpy
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, Value

Probe = Callable[..., Any]

GIVEN: Mapping[str, str] = {
    "rng": "a NumPy generator that belongs to the seed, the image and the condition",
    "index": "the image's position in its set",
    "seed": "the study's seed",
    "size": "the images' side in pixels",
}
"""What a function may take beside images and the probe's parameters. The names are reserved."""
OF_AN_IMAGE = ("rng", "index")
"""A function that takes one of them is called image by image, with a batch of one."""
RANDOM = ("rng", "seed")
"""A function that takes one of them depends on the study's seed, which is then part of what its cells are."""
APART = 1e-4
"""Values that differ by more are not the same. Libraries may round a little otherwise in a batch of another size."""
FEW = 2e-4
"""The share of an image's values that rounding may push across a border of a function that has some."""


def user_family(name: str, file: Path, function: str | None = None) -> Family:
    """The family of `function` (default: the probe's name) in `file`.

    Parameters after the first are the probe's, except those that are named in GIVEN.
    """
    where = f"probe {name}"
    if not file.is_file():
        raise UsageError(f"{where}: no file {file}; `file` is relative to the study's folder")
    function = str(function or name)
    version = int(digest_of(source_digest(file), function)[:15], 16)
    module = _load(file, where)
    with _in_one_line(UsageError, f"{where}: {function} in {file} cannot be used"):
        probe: Any = getattr(module, function, None)
        said = inspect.cleandoc(probe.__doc__).splitlines() if isinstance(probe.__doc__, str) else []
        signature = inspect.signature(probe) if callable(probe) else None
    if signature is None:
        raise UsageError(f"{where}: {file} has no function {function}(images, …)")
    parameters = _parameters(signature, f"{where}: {function} in {file}")
    taken = tuple(parameter.name for parameter in parameters if parameter.name in GIVEN)
    with_rng = ", ".join(dict.fromkeys([*signature.parameters, "rng"]))
    return Family(
        name,
        one_line(said[0]) if said else f"{function} of {file.name}",
        version,
        parameters=tuple(
            Parameter(one.name, _parse, () if one.default is one.empty else (one.default,))
            for one in parameters
            if one.name not in GIVEN
        ),
        perturb=_perturb(probe, taken, where, f"def {function}({with_rng})"),
        random=any(one in RANDOM for one in taken),
    )


def _parameters(signature: inspect.Signature, where: str) -> list[inspect.Parameter]:
    """Those after the first; UsageError where a study could not give them values."""
    given = list(signature.parameters.values())
    if not given:
        raise UsageError(f"{where} takes no images; its first parameter is the batch")
    for one in given[1:]:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise UsageError(f"{where} takes {one}; name each parameter")
        if one.name in GIVEN and one.default is not one.empty:
            raise UsageError(
                f"{where} takes {one.name} with a default, and is given {GIVEN[one.name]}; leave the default out, or "
                "call the parameter something else"
            )
    return given[1:]


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


def _load(file: Path, where: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bandlens_probe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{where}: {file} does not end in .py")
    module = importlib.util.module_from_spec(spec)
    with _importable(file.parent), _in_one_line(UsageError, f"{where}: {file} does not load"):
        spec.loader.exec_module(module)
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


@contextmanager
def _in_one_line(kind: type[BandlensError], what: str) -> Iterator[None]:
    """Run code of the user's: whatever it raises becomes an error in one line.

    What it prints goes to standard error meanwhile, also what other threads print: standard output is for results.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    # GeneratorExit and the like would end the thread that perturbs as if all were well.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # it is the user who interrupts
        try:
            said = f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001 - an error that fails when it is to be shown
            said = type(error).__name__
        raise kind(f"{what}: {' '.join(said.split())}") from error


def _parse(value: Any) -> Value:
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not finite:
        raise ValueError(f"must be a finite number or a string, not {value!r}")
    return value


def _perturb(
    probe: Probe, taken: Sequence[str], where: str, right: str
) -> Callable[..., Iterator[tuple[Condition, Array]]]:
    """The family's `perturb`; `taken` are the names of GIVEN that the function takes, `right` a line that takes rng."""
    trusted = set[Condition]()

    def perturb(
        xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
    ) -> Iterator[tuple[Condition, Array]]:
        host = Batch(to_numpy(batch.pixels), to_numpy(batch.keys), batch.positions, batch.seed)
        for condition in conditions:
            made = _computed(probe, taken, host, condition, where)
            if condition not in trusted and _depends_on_more(probe, taken, host, condition, where):
                raise ProbeError(
                    f"{where} gives an image other values when it is called again or with other images; treat each "
                    f"image by itself, and draw random numbers from rng alone: {right}"
                )
            trusted.add(condition)
            out = buffer()
            out[...] = xp.asarray(made)
            yield condition, out

    return perturb


def _depends_on_more(probe: Probe, taken: Sequence[str], batch: Batch, condition: Condition, where: str) -> bool:
    """Whether a picture comes out otherwise a second time, or as the last of three.

    The picture is the batch's first image, turned by half a turn: it differs from the two beside it, and has no value
    that is none of the set's, so that a function fails with it no sooner.
    """
    picture = batch.pixels[:1, :, ::-1, ::-1]
    rows = np.array([0, -1, 0])
    alone = Batch(picture, batch.keys[:1], batch.positions[:1], batch.seed)
    three = Batch(
        np.concatenate([batch.pixels[rows[:2]], picture]), batch.keys[rows], batch.positions[rows], batch.seed
    )
    once, again, last = (_computed(probe, taken, one, condition, where)[-1] for one in (alone, alone, three))
    return bool((np.abs(once - again) > APART).any() or (np.abs(once - last) > APART).mean() > FEW)


def _computed(
    probe: Probe, taken: Sequence[str], batch: Batch, condition: Condition, where: str
) -> NDArray[np.float32]:
    """(n, 3, size, size): what the function makes of a batch in the host's memory; ProbeError where it fails."""
    pixels = batch.pixels
    images: NDArray[np.float32] = unit_range(np, pixels, np.empty(pixels.shape, dtype=np.float32))
    together = {"seed": batch.seed, "size": pixels.shape[-1]}
    given = dict(condition.parameters) | {name: value for name, value in together.items() if name in taken}
    if not any(name in OF_AN_IMAGE for name in taken):
        return _called(probe, images, given, where)
    for at, (key, position) in enumerate(zip(batch.keys.tolist(), batch.positions.tolist(), strict=True)):
        rng = np.random.default_rng(int(digest_of(batch.seed, key, condition.digest), 16))
        own = {"rng": rng, "index": position}
        one = images[at : at + 1]
        one[...] = _called(probe, one.copy(), given | {name: own[name] for name in own if name in taken}, where)
    return images


def _called(probe: Probe, images: NDArray[np.float32], given: Mapping[str, Any], where: str) -> NDArray[np.float32]:
    """What the function gave, in the host's memory; ProbeError says what was expected where it is something else."""
    expected = images.shape
    with _in_one_line(ProbeError, f"{where} failed"):
        result = probe(images, **given)
        made, kind = _in_host_memory(result), type(result).__name__
    if made is None or made.shape != expected:
        got = kind if made is None else f"shape {made.shape}"
        raise ProbeError(f"{where} returned {got}; expected an array of shape {expected}")
    if made.dtype.kind not in "fiu":
        raise ProbeError(f"{where} returned {made.dtype} values; expected numbers in [0, 1]")
    low, high = float(made.min()), float(made.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ProbeError(
            f"{where} returned values in [{low:.4g}, {high:.4g}]; expected finite values in [0, 1], so clip them"
        )
    return made.astype(np.float32)  # a copy: the function may keep the array and fill it again


def _in_host_memory(result: Any) -> NDArray[Any] | None:
    """An array of NumPy or CuPy, or a tensor of torch, as a NumPy array; None for anything else.

    Neither library is imported for this: a function that returns one of its arrays has imported it.
    """
    cupy: Any = sys.modules.get("cupy")
    torch: Any = sys.modules.get("torch")
    if isinstance(result, np.ndarray):
        return np.asarray(result)
    if isinstance(result, getattr(cupy, "ndarray", ())):
        return to_numpy(result)
    if isinstance(result, getattr(torch, "Tensor", ())):
        tensor: Any = result
        # NumPy has no bfloat16.
        made: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
        return made
    return None
