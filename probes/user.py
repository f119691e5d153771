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
given under reserved names (see RESERVED). One that takes `rng` gets, for each image, a generator that belongs to the
seed, the image and the condition, so that nothing depends on batch, order or machine:

    def salt_and_pepper(images, share, rng):
        dice = rng.random(images.shape[2:])
        images[:, :, dice < share / 2] = 0
        images[:, :, dice > 1 - share / 2] = 1
        return images

The function is loaded and called in a process of its own (see `user_function`). Whatever it does ends its cells with an
error in one line, and what it prints goes to standard error.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ProbeError, UsageError
from ..core.records import Condition, digest_of
from ..user_function import UserFunction, settings_of
from ..user_source import parse_source, source_names
from .arrays import Array, to_numpy
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, Value

RESERVED: Mapping[str, str] = {
    "rng": "a NumPy generator that belongs to the seed, the image and the condition",
    "index": "the image's position in its set",
    "seed": "the study's seed",
    "size": "the images' side in pixels",
}
"""The parameters that a function may have beside images and those of the probe."""
PER_IMAGE = ("rng", "index")
"""A function that takes one of them is called image by image, with a batch of one."""
RANDOM = ("rng", "seed")
"""A function that takes one of them depends on the study's seed, which is then part of what its cells are."""
ROUNDING = 1e-4
"""Difference up to which two values are the same: libraries round a little otherwise in a batch of another size."""
BORDER_SHARE = 2e-4
"""Share of an image's values that may differ by more: rounding pushes them across a border that the function has."""
KEPT_VALUES = 1 << 14
"""Values of an image that are kept of each condition, to be compared later in the run."""
MOST_ROWS = 8
"""The most images of a batch, beside its last one, that a check compares."""
GROWTH = 4
"""A condition is checked again before it has had this many times the batches that it had at the last check."""


def start_probe(name: str, table: Mapping[str, Any], folder: Path) -> UserFunction:
    """Start the process of the probe that a study in `folder` describes by a table with `file`; see `user_family`.

    Several may start at once. UsageError where the table, or what it names, is none of a probe.
    """
    for reserved, meaning in RESERVED.items():
        if reserved in table:
            raise UsageError(
                f"probe {name}: {reserved} is {meaning}, which its function is given; call the function's own "
                "parameter something else"
            )
    source = parse_source(f"probe {name}", table, folder)
    return UserFunction(f"probe {name}", source, str(table.get("function") or name), "images", ProbeError)


def user_family(name: str, function: UserFunction) -> Family:
    """The family of a probe that was started; UsageError where its file has no function that can be used.

    Parameters after the first are the probe's, except those that are named in RESERVED.
    """
    title, parameters = function.describe()
    if not parameters:
        raise UsageError(f"{function} takes no images; its first parameter is the batch")
    after_images = dict(list(parameters.items())[1:])
    settings = settings_of(after_images, RESERVED, function)
    reserved = tuple(name for name in after_images if name in RESERVED)
    with_rng = ", ".join(dict.fromkeys([*parameters, "rng"]))
    return Family(
        name,
        title or f"{function.name} of {function.source.file.name}",
        version=int(digest_of(function.digest, function.name)[:15], 16),
        parameters=tuple(Parameter(setting, _parse_value, default) for setting, default in settings.items()),
        perturb=_perturb(function, ProbeCall(function.what, reserved, f"def {function.name}({with_rng})")),
        random=any(name in RANDOM for name in reserved),
        files=source_names(function.source),
    )


def _parse_value(value: Any) -> Value:
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not finite:
        raise ValueError(f"must be a finite number or a string, not {value!r}")
    return value


class ProbeCall(NamedTuple):
    """How a probe's function is called, and how errors speak of it."""

    what: str
    """How errors begin."""
    reserved: tuple[str, ...]
    """The names of RESERVED that it takes."""
    with_rng: str
    """A line that takes rng, for an error."""


def _perturb(function: UserFunction, how: ProbeCall) -> Callable[..., Iterator[tuple[Condition, Array]]]:
    """The family's `perturb`."""
    one_at_a_time = threading.Lock()  # two runs may have the same probe

    def perturb(
        xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
    ) -> Iterator[tuple[Condition, Array]]:
        host = replace(batch, pixels=to_numpy(batch.pixels), keys=to_numpy(batch.keys))
        for condition in conditions:
            out = buffer()
            with one_at_a_time:
                out[...] = xp.asarray(function.call(perturb_batch, how, xp is np, host, condition))
            yield condition, out

    return perturb


# The rest of this module runs in the process of the user's file.


@dataclass(slots=True)
class _Watch:
    """The state of the watch over a function under a condition."""

    picture: Batch
    """An image of the condition's first batch."""
    values: NDArray[np.float32]
    """(KEPT_VALUES,) some of the values that the function made of the picture then."""
    batches: int = 1
    """The number of batches so far."""
    next_check: int = 0
    """The number of the batch with which the function is checked again."""
    refusal: str | None = None
    """The line that says on what else an image depends."""


_watches: dict[tuple[Condition, int, int], _Watch] = {}
"""The watch of each condition, seed and size of images."""
_pictures: dict[tuple[int, int, int], Batch] = {}
"""The pictures of all conditions, most of which share one, by key, position and seed."""


def perturb_batch(
    function: Callable[..., Any], how: ProbeCall, on_cpu: bool, batch: Batch, condition: Condition
) -> NDArray[np.float32]:
    """(n, 3, size, size): what the function makes of a batch in the host's memory.

    Raises ProbeError where that is no batch of images, or where an image depends on others, or on earlier calls.
    Whether it does is looked for in a condition's first batch and, at random, in later ones.
    """
    if on_cpu:
        _use_one_thread()
    images = _called_images(function, how, batch, condition)
    key = (condition, batch.seed, batch.pixels.shape[-1])
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = _begin_watch(function, how, batch, images, condition)
    else:
        watch.batches += 1
        if watch.batches == watch.next_check:
            _check_batch(function, how, batch, images, condition, watch)
    if watch.refusal is not None:
        raise ProbeError(watch.refusal)
    return images


@cache
def _use_one_thread() -> None:
    """Multiply matrices in one thread: the command keeps the other processors at work."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "blas")


def _begin_watch(
    function: Callable[..., Any], how: ProbeCall, batch: Batch, images: NDArray[np.float32], condition: Condition
) -> _Watch:
    """Check the first batch of a condition, with a picture alone, alone again, and among others."""
    count = len(batch.pixels)
    # Alone it is the first and the last at once, so it is neither in the batch where that is possible, and its number
    # is odd, so that a function that treats every second image alike treats it otherwise here.
    rows = range(1, count - 1, 2) or [count - 1]
    row = rows[int(np.random.default_rng(int(batch.keys[0])).integers(len(rows)))]
    key = (int(batch.keys[row]), int(batch.positions[row]), batch.seed)
    picture = _pictures.setdefault(key, _rows_of(batch, np.array([row])))
    alone, again = (_called_images(function, how, picture, condition)[0] for _ in range(2))
    watch = _Watch(picture, alone.ravel()[_kept_places(alone.size)])
    if (np.abs(alone - again) > ROUNDING).any():
        watch.refusal = _refusal(how, picture, 0, "when it is called again")
    elif _differ(alone, images[row]):
        watch.refusal = _refusal(how, picture, 0, "by itself than beside others")
    else:
        _check_batch(function, how, batch, images, condition, watch)
    return watch


def _check_batch(
    function: Callable[..., Any],
    how: ProbeCall,
    batch: Batch,
    images: NDArray[np.float32],
    condition: Condition,
    watch: _Watch,
) -> None:
    """Compare some images with what they are at other places of a batch of another size, and the picture with itself.

    The batch is the first image turned by half a turn, the last one and some others in any order, and the picture.
    What is turned has no value that is none of the set's, so that a function fails with it no sooner. What is drawn
    depends on the images and the condition, so that a run fails again as it failed before.
    """
    count, picture = len(batch.pixels), watch.picture
    random = np.random.default_rng([int(batch.keys[0]), int(condition.digest[:16], 16), watch.batches])
    watch.next_check = watch.batches + int(random.integers(1, (GROWTH - 1) * watch.batches + 1))
    sizes = [size for size in range(min(count, MOST_ROWS + 1)) if size + 3 != count][-3:]
    rows = random.permutation(np.append(random.permutation(count - 1)[: random.choice(sizes)], count - 1))
    stranger, members = _rows_of(batch, np.array([0])), _rows_of(batch, rows)
    trial = Batch(
        np.concatenate([stranger.pixels[..., ::-1, ::-1], members.pixels, picture.pixels]),
        np.concatenate([stranger.keys, members.keys, picture.keys]),
        np.concatenate([stranger.positions, members.positions, picture.positions]),
        batch.seed,
    )
    results = _called_images(function, how, trial, condition)
    for place, row in enumerate(rows, 1):
        if _differ(results[place], images[row]):
            watch.refusal = _refusal(how, trial, place, "in another batch")
    if _differ(results[-1].ravel()[_kept_places(results[-1].size)], watch.values):
        watch.refusal = _refusal(how, trial, -1, "later in the run")


def _rows_of(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    return Batch(batch.pixels[rows], batch.keys[rows], batch.positions[rows], batch.seed)


@cache
def _kept_places(size: int) -> NDArray[np.int64]:
    """The places, in an image of so many values, of those that are kept."""
    return np.random.default_rng(0).integers(0, size, KEPT_VALUES)


def _differ(image_a: NDArray[np.float32], image_b: NDArray[np.float32]) -> bool:
    return bool((np.abs(image_a - image_b) > ROUNDING).mean() > BORDER_SHARE)


def _refusal(how: ProbeCall, batch: Batch, place: int, when: str) -> str:
    return (
        f"{how.what} gives image {batch.positions[place]} of the set, counted from 0, other values {when}; treat each "
        f"image by itself, and draw random numbers from rng alone: {how.with_rng}"
    )


def _called_images(
    function: Callable[..., Any], how: ProbeCall, batch: Batch, condition: Condition
) -> NDArray[np.float32]:
    pixels = batch.pixels
    images: NDArray[np.float32] = unit_range(np, pixels, np.empty(pixels.shape, dtype=np.float32))

    def taken(**available: Any) -> dict[str, Any]:
        return {name: value for name, value in available.items() if name in how.reserved}

    settings = dict(condition.parameters) | taken(seed=batch.seed, size=pixels.shape[-1])
    if not any(name in PER_IMAGE for name in how.reserved):
        return _checked(how.what, function(images, **settings), images.shape)
    for at, (key, position) in enumerate(zip(batch.keys.tolist(), batch.positions.tolist(), strict=True)):
        rng = np.random.default_rng(int(digest_of(batch.seed, key, condition.digest), 16))
        image = images[at : at + 1]
        result = function(image.copy(), **settings, **taken(rng=rng, index=position))
        image[:] = _checked(how.what, result, image.shape)
    return images


LEAST_BYTES = 16
"""A greatest value above this is taken for one of 0 to 255."""


def _checked(what: str, result: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The result as a batch of images of that shape; ProbeError says what was expected where it is something else."""
    images = _in_host_memory(result)
    if images is None or images.shape != shape:
        received = type(result).__name__ if images is None else f"shape {images.shape}"
        raise ProbeError(f"{what} returned {received}; expected an array of shape {shape}")
    if images.dtype.kind not in "fiu":
        raise ProbeError(f"{what} returned {images.dtype} values; expected numbers in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ProbeError(f"{what} returned NaN or infinity; expected finite values in [0, 1]: look for a division by 0")
    if low < 0 or high > 1:
        advice = "divide them by 255" if low >= 0 and LEAST_BYTES < high <= 255 else "clip them"
        raise ProbeError(
            f"{what} returned values in [{low:.4g}, {high:.4g}]; expected finite values in [0, 1], so {advice}"
        )
    return images.astype(np.float32)  # a copy: the function may keep the array and fill it again


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
        array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy(force=True)
        return array
    return None
