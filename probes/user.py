"""A user's own probe: a Python file with a function from a batch of images and parameters to a batch of images.

    def blur(images, sigma):
        ...
        return images

`images` is a NumPy array of the function's own, (n, 3, size, size) float32 in [0, 1]. It is so in a run on a GPU too:
one file serves every engine. What comes back is an array of NumPy or CuPy, or a tensor of torch, of the same shape,
finite and in [0, 1]; a function that computes with CuPy begins with `cupy.asarray(images)`. The probe's identity is the
source of its file, of the modules beside it that it imports, and what the study says that it `uses` beside it, so that
an edit re-runs exactly what it changes. A file beside it that it reads and that is none of these is refused.

Every image must be treated by itself: batches are cut as it suits the engine. What a built-in probe has, a function is
given under reserved names (see GIVEN). One that takes `rng` gets, for each image, a generator that belongs to the seed,
the image and the condition, so that nothing depends on batch, order or machine:

    def salt_and_pepper(images, share, rng):
        dice = rng.random(images.shape[2:])
        images[:, :, dice < share / 2] = 0
        images[:, :, dice > 1 - share / 2] = 1
        return images

Whatever it does ends its cells with an error in one line, and what it prints goes to standard error (see `guest`). A
run calls it in a process of its own (see `process`).
"""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BandlensError, ProbeError, UsageError
from ..records import Condition, digest_of
from ..untrusted import one_line
from .arrays import Array, to_numpy
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, Value
from .guest import in_one_line, visiting
from .source import ProbeSource, source_digest, source_files

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


def user_family(name: str, source: ProbeSource, function: str | None = None) -> Family:
    """The family of `function` (default: the probe's name) in the source's file.

    Parameters after the first are the probe's, except those that are named in GIVEN.
    """
    file, where = source.file, f"probe {name}"
    if not file.is_file():
        raise UsageError(f"{where}: no file {file}; `file` is relative to the study's folder")
    function = str(function or name)
    version = int(digest_of(source_digest(source), function)[:15], 16)
    guest = _host(source, where)
    module = _load(file, where, guest)
    with guest(UsageError), in_one_line(UsageError, f"{where}: {function} in {file} cannot be used"):
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
        perturb=_perturb(_Own(probe, taken, where, guest), f"def {function}({with_rng})"),
        random=any(one in RANDOM for one in taken),
        files=tuple(path.relative_to(file.parent).as_posix() for path in source_files(source)),
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


# The user's code is a guest of this process

Guest = Callable[[type[BandlensError]], AbstractContextManager[None]]
"""A block within which code of a probe's may run."""


class _Uncached(SourceFileLoader):
    """Compiles the source that lies there. Kept bytecode is found by the source's time and length, and two edits may
    have both in common.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _load(file: Path, where: str, guest: Guest) -> ModuleType:
    name = f"bandlens_probe_{file.stem}"
    loader = _Uncached(name, str(file.absolute()))
    spec = spec_from_file_location(name, file.absolute(), loader=loader)
    if spec is None or file.suffix != ".py":
        raise UsageError(f"{where}: {file} does not end in .py")
    module = module_from_spec(spec)
    for path in [path for path in sys.path_importer_cache if _place(file.parent.absolute(), path)]:
        del sys.path_importer_cache[path]  # they would find bytecode, and what lay there before
    with guest(UsageError), in_one_line(UsageError, f"{where}: {file} does not load"):
        sys.modules[name] = module  # where dataclasses and pickles look for it
        loader.exec_module(module)
    return module


def _host(source: ProbeSource, where: str) -> Guest:
    """Gives the blocks. Each ends with an error of the kind asked for where files that are no part of the probe's
    identity were read beside it, or imported.
    """
    folder = source.file.parent.absolute()
    covered = {path.relative_to(source.file.parent).as_posix() for path in source_files(source)}
    modules: dict[str, ModuleType] = {}

    @contextmanager
    def guest(kind: type[BandlensError]) -> Iterator[None]:
        with visiting() as read, _importable(folder, modules):
            yield
        names = [*read, *map(_file_of, modules.values())]
        places = {place for name in names if name and Path(name).is_file() and (place := _place(folder, name))}
        if more := sorted(places - covered):
            uses = ", ".join(f'"{name}"' for name in [*source.uses, *more])
            raise kind(
                f"{where} reads {', '.join(more)}, and nothing says that its results depend on that; add to its table "
                f"in the study: uses = [{uses}]"
            )

    return guest


@contextmanager
def _importable(folder: Path, modules: dict[str, ModuleType]) -> Iterator[None]:
    """Let modules of the folder be imported, and move them into `modules` afterwards, from where they come again.

    Another probe may have some of those names.
    """

    def uncached(path: str) -> FileFinder:
        if not _place(folder, path):
            raise ImportError
        return FileFinder(path, (_Uncached, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES))

    before = set(sys.modules)
    for name, module in modules.items():
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(folder))
    sys.path_hooks.insert(0, uncached)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.path_hooks.remove(uncached)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] != PACKAGE and _place(folder, _file_of(sys.modules[name])):
                modules[name] = sys.modules.pop(name)


def _file_of(module: ModuleType) -> str | None:
    """The file of a module, or a folder of a package that has none."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)


PACKAGE = __name__.partition(".")[0]
"""It may lie beside the probe, and the run imports modules of it while probes are at work."""


def _place(folder: Path, name: str | None) -> str | None:
    """A path relative to the folder; None for one that lies elsewhere, or that is there for Python.

    Such are compiled modules, hidden folders, and an environment of Python's.
    """
    if not name or Path(os.path.realpath(name)).is_relative_to(os.path.realpath(sys.prefix)):
        return None
    for path, root in ((name, folder), (os.path.realpath(name), os.path.realpath(folder))):
        if Path(path).is_relative_to(root):
            place = Path(path).relative_to(root)
            python = any(part.startswith(".") or part == "__pycache__" for part in place.parts)
            return None if python else place.as_posix()
    return None


def _parse(value: Any) -> Value:
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not finite:
        raise ValueError(f"must be a finite number or a string, not {value!r}")
    return value


class _Own(NamedTuple):
    """A function of a user's."""

    probe: Probe
    taken: tuple[str, ...]
    """The names of GIVEN that it takes."""
    where: str
    """How errors begin."""
    guest: Guest


def _perturb(own: _Own, right: str) -> Callable[..., Iterator[tuple[Condition, Array]]]:
    """The family's `perturb`; `right` is a line that takes rng."""
    trusted = set[Condition]()

    def perturb(
        xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
    ) -> Iterator[tuple[Condition, Array]]:
        host = Batch(to_numpy(batch.pixels), to_numpy(batch.keys), batch.positions, batch.seed)
        for condition in conditions:
            made = _computed(own, host, condition)
            if condition not in trusted and _depends_on_more(own, host, condition):
                raise ProbeError(
                    f"{own.where} gives an image other values when it is called again or with other images; treat each "
                    f"image by itself, and draw random numbers from rng alone: {right}"
                )
            trusted.add(condition)
            out = buffer()
            out[...] = xp.asarray(made)
            yield condition, out

    return perturb


def _depends_on_more(own: _Own, batch: Batch, condition: Condition) -> bool:
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
    once, again, last = (_computed(own, one, condition)[-1] for one in (alone, alone, three))
    return bool((np.abs(once - again) > APART).any() or (np.abs(once - last) > APART).mean() > FEW)


def _computed(own: _Own, batch: Batch, condition: Condition) -> NDArray[np.float32]:
    """(n, 3, size, size): what the function makes of a batch in the host's memory; ProbeError where it fails."""
    pixels = batch.pixels
    images: NDArray[np.float32] = unit_range(np, pixels, np.empty(pixels.shape, dtype=np.float32))
    together = {"seed": batch.seed, "size": pixels.shape[-1]}
    given = dict(condition.parameters) | {name: value for name, value in together.items() if name in own.taken}
    with own.guest(ProbeError):
        if not any(name in OF_AN_IMAGE for name in own.taken):
            return _called(own, images, given)
        for at, (key, position) in enumerate(zip(batch.keys.tolist(), batch.positions.tolist(), strict=True)):
            rng = np.random.default_rng(int(digest_of(batch.seed, key, condition.digest), 16))
            of_image = {"rng": rng, "index": position}
            more = {name: value for name, value in of_image.items() if name in own.taken}
            images[at] = _called(own, images[at : at + 1].copy(), given | more)[0]
    return images


def _called(own: _Own, images: NDArray[np.float32], given: Mapping[str, Any]) -> NDArray[np.float32]:
    """What the function gave, in the host's memory; ProbeError says what was expected where it is something else."""
    where, expected = own.where, images.shape
    with in_one_line(ProbeError, f"{where} failed"):
        result = own.probe(images, **given)
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
