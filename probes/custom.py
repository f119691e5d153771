"""A user's own probe: a function from a batch of images and parameters to a batch of images, in a file or in memory.

    def blur(images, sigma):
        ...
        return images

`images` is a NumPy array of the function's own, (n, 3, size, size) float32 in [0, 1]. One that takes `xp` gets the
run's own arrays, and their module: CuPy in a run on a GPU, so that the images never leave it. What comes back is an
array of NumPy or CuPy, or a tensor of torch, of the same shape, finite and in [0, 1]. `core.custom.load` says what
identifies a function.

Every image must be treated by itself: batches are cut as it suits the engine. What a built-in probe has, a function is
given under reserved names (see RESERVED). One that takes `rng` gets, for each image, a generator that belongs to the
seed, the image and the condition, so that nothing depends on batch, order or machine:

    def salt_and_pepper(images, share, rng):
        dice = rng.random(images.shape[2:])
        images[:, :, dice < share / 2] = 0
        images[:, :, dice > 1 - share / 2] = 1
        return images

The function is called in the thread that perturbs (see `core.custom.call`). Whatever it raises ends its cells with
an error in one line.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.custom.call import UserFunction, settings_of, user_function
from ..core.errors import ProbeError, UsageError
from ..core.records import Condition, digest_of
from ..core.untrusted import words_of
from .arrays import Array, to_numpy, unit_range
from .family import Batch, Buffer, Family, Parameter, Perturbed, Value

RESERVED: Mapping[str, str] = {
    "rng": "a NumPy generator that belongs to the seed, the image and the condition",
    "index": "the image's position in its set",
    "seed": "the study's seed",
    "size": "the images' side in pixels",
    "xp": "the module of its arrays, CuPy on a GPU and NumPy elsewhere",
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


def user_family(name: str, table: Mapping[str, Any], folder: Path) -> Family:
    """The family of the probe that a study in `folder` describes by a table with `file`, or a `function` in memory.

    Parameters of the function after the first are the probe's, except those that are named in RESERVED. UsageError
    where the table, or what it names, is none of a probe.
    """
    function = user_function(f"probe {name}", name, table, folder, "images", ProbeError)
    parameters = list(function.parameters)
    if not parameters:
        raise UsageError(f"{function} takes no images; its first parameter is the batch")
    settings = settings_of({key: function.parameters[key] for key in parameters[1:]}, RESERVED, table, function)
    reserved_parameters = frozenset(key for key in parameters[1:] if key in RESERVED)
    with_rng = ", ".join(dict.fromkeys([*parameters, "rng"]))
    probe = UserProbe(function, function.heading, reserved_parameters, f"def {function.name}({with_rng})")
    return Family(
        name,
        function.title or (f"{function.name} of {function.file.name}" if function.file else function.name),
        version=int(digest_of(function.code.digest, function.name)[:15], 16),
        parameters=tuple(Parameter(setting, _parse_value, default) for setting, default in settings.items()),
        perturb=probe,
        random=not reserved_parameters.isdisjoint(RANDOM),
        files=function.code.names,
    )


def _parse_value(value: Any) -> Value:
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not finite:
        raise ValueError(f"must be a finite number or a string, not {value!r}")
    return value


@dataclass(slots=True)
class _Watch:
    """The state of the watch over a function under a condition."""

    picture: Batch
    """An image of the condition's first batch."""
    values: Array
    """Some of the values that the function made of the picture then."""
    batches: int = 1
    """The number of batches so far."""
    next_check: int = 0
    """The number of the batch with which the function is checked again."""
    refusal: str | None = None
    """The line that says on what else an image depends."""


@dataclass(eq=False)
class UserProbe:
    """A function that perturbs, and the watch over it: called, it perturbs as families do."""

    function: UserFunction
    heading: str
    """How errors begin."""
    reserved: frozenset[str]
    """The names of RESERVED that it takes."""
    with_rng: str
    """A line that takes rng, for an error."""
    _watches: dict[tuple[ModuleType, Condition, int, int], _Watch] = field(default_factory=dict)
    """The watch of each condition, seed and size of images."""
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    """Two runs may have the same probe."""

    def __call__(self, xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
        for condition in conditions:
            out = buffer()
            with self._one_at_a_time, self.function.at_work(condition.digest):
                self.perturb_batch(xp, batch, condition, out)
            yield condition, out

    def perturb_batch(self, xp: ModuleType, batch: Batch, condition: Condition, out: Array) -> None:
        """Write into `out`, (n, 3, size, size), what the function makes of a batch in the memory of `xp`.

        Raises ProbeError where that is no batch of images, or where an image depends on others, or on earlier calls.
        Whether it does is looked for in a condition's first batch and, at random, in later ones.
        """
        if xp is not np and "xp" not in self.reserved:
            host_images = np.empty(out.shape, np.float32)
            host = replace(batch, pixels=to_numpy(batch.pixels), keys=to_numpy(batch.keys))
            self.perturb_batch(np, host, condition, host_images)
            out[...] = xp.asarray(host_images)
            return
        self._call(xp, batch, condition, out)
        key = (xp, condition, batch.seed, batch.pixels.shape[-1])
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = self._begin_watch(xp, batch, out, condition)
        else:
            watch.batches += 1
            if watch.batches == watch.next_check:
                self._check_batch(xp, batch, out, condition, watch)
        if watch.refusal is not None:
            raise ProbeError(watch.refusal)

    def _called(self, xp: ModuleType, batch: Batch, condition: Condition) -> Array:
        images = xp.empty(batch.pixels.shape, dtype=xp.float32)
        self._call(xp, batch, condition, images)
        return images

    def _call(self, xp: ModuleType, batch: Batch, condition: Condition, out: Array) -> None:
        """Write into `out` what the function makes of a batch, whatever an image depends on."""
        count, size = len(batch.pixels), batch.pixels.shape[-1]
        available: dict[str, Any] = {"seed": batch.seed, "size": size, "xp": xp}
        is_per_image = not self.reserved.isdisjoint(PER_IMAGE)
        keys = to_numpy(batch.keys) if is_per_image else ()  # a copy from a GPU waits for it
        step = 1 if is_per_image else count
        for first in range(0, count, step):
            rows = slice(first, first + step)
            if is_per_image:
                seed = int(digest_of(batch.seed, int(keys[first]), condition.digest), 16)
                available |= {"rng": np.random.default_rng(seed), "index": int(batch.positions[first])}
            arguments = {name: available[name] for name in self.reserved}
            images = unit_range(xp, batch.pixels[rows])
            self._store(xp, self.function(images, **dict(condition.parameters), **arguments), out[rows])

    def _store(self, xp: ModuleType, result: Any, out: Array) -> None:
        """Write a result into `out`; ProbeError says what was expected where it is no batch of images of that shape."""
        heading = self.heading
        try:
            images = _as_array(xp, result)
        except Exception as error:  # a tensor that has no values, or a class that pretends to be another
            raise ProbeError(f"{heading} returned {type(result).__name__}: {words_of(error)}") from error
        if images is None or images.shape != out.shape:
            received = type(result).__name__ if images is None else f"shape {images.shape}"
            raise ProbeError(f"{heading} returned {received}; expected an array of shape {out.shape}")
        if images.dtype.kind not in "fiu":
            raise ProbeError(f"{heading} returned {images.dtype} values; expected numbers in [0, 1]")
        out[...] = images  # a copy: the function may keep its array and fill it again
        low, high = float(out.min()), float(out.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ProbeError(
                f"{heading} returned NaN or infinity; expected finite values in [0, 1]: look for a division by 0"
            )
        if low < 0 or high > 1:
            advice = "divide them by 255" if low >= 0 and LEAST_BYTES < high <= 255 else "clip them"
            raise ProbeError(
                f"{heading} returned values in [{low:.9g}, {high:.9g}]; expected finite values in [0, 1], so {advice}"
            )

    def _begin_watch(self, xp: ModuleType, batch: Batch, images: Array, condition: Condition) -> _Watch:
        """Check the first batch of a condition, with a picture alone, alone again, and among others."""
        count = len(batch.pixels)
        # Alone it is the first and the last at once, so it is neither in the batch where that is possible, and its
        # number is odd, so that a function that treats every second image alike treats it otherwise here.
        rows = range(1, count - 1, 2) or [count - 1]
        row = rows[int(np.random.default_rng(int(batch.keys[0])).integers(len(rows)))]
        picture = _rows_of(xp, batch, [row])
        values, repeated_values = (self._called(xp, picture, condition)[0] for _ in range(2))
        watch = _Watch(picture, _values_of(values))
        if bool((xp.abs(values - repeated_values) > ROUNDING).any()):
            watch.refusal = self._refusal(picture, 0, "when it is called again")
        elif _differ(xp, values, images[row]):
            watch.refusal = self._refusal(picture, 0, "by itself than beside others")
        else:
            self._check_batch(xp, batch, images, condition, watch)
        return watch

    def _check_batch(self, xp: ModuleType, batch: Batch, images: Array, condition: Condition, watch: _Watch) -> None:
        """Compare some images with what they are at other places of a batch of another size, and the picture.

        The batch is the first image turned by half a turn, the last one and some others in any order, and the picture.
        What is turned has no value that is none of the set's, so that a function fails with it no sooner. What is drawn
        depends on the images and the condition, so that a run fails again as it failed before.
        """
        count, picture = len(batch.pixels), watch.picture
        random = np.random.default_rng([int(batch.keys[0]), int(condition.digest[:16], 16), watch.batches])
        watch.next_check = watch.batches + int(random.integers(1, (GROWTH - 1) * watch.batches + 1))
        sizes = [size for size in range(min(count, MOST_ROWS + 1)) if size + 3 != count][-3:]
        rows = random.permutation(np.append(random.permutation(count - 1)[: random.choice(sizes)], count - 1))
        stranger, members = _rows_of(xp, batch, [0]), _rows_of(xp, batch, rows)
        trial = Batch(
            xp.concatenate([stranger.pixels[..., ::-1, ::-1], members.pixels, picture.pixels]),
            xp.concatenate([stranger.keys, members.keys, picture.keys]),
            np.concatenate([stranger.positions, members.positions, picture.positions]),
            batch.seed,
        )
        results = self._called(xp, trial, condition)
        for place, row in enumerate(rows.tolist(), 1):
            if _differ(xp, results[place], images[row]):
                watch.refusal = self._refusal(trial, place, "in another batch")
        if _differ(xp, _values_of(results[-1]), watch.values):
            watch.refusal = self._refusal(trial, -1, "later in the run")

    def _refusal(self, batch: Batch, place: int, occasion: str) -> str:
        return (
            f"{self.heading} gives image {batch.positions[place]} of the set, counted from 0, other values {occasion}; "
            f"treat each image by itself, and draw random numbers from rng alone: {self.with_rng}"
        )


def _rows_of(xp: ModuleType, batch: Batch, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
    index = xp.asarray(rows)
    return Batch(batch.pixels[index], batch.keys[index], batch.positions[np.asarray(rows)], batch.seed)


def _values_of(image: Array) -> Array:
    """About KEPT_VALUES of an image's values, spread evenly over it."""
    return image.ravel()[:: image.size // KEPT_VALUES | 1].copy()


def _differ(xp: ModuleType, image_a: Array, image_b: Array) -> bool:
    return bool((xp.abs(image_a - image_b) > ROUNDING).mean() > BORDER_SHARE)


LEAST_BYTES = 16
"""A greatest value above this is taken for one of 0 to 255."""


def _as_array(xp: ModuleType, result: Any) -> Array | None:
    """An array of NumPy or CuPy, or a tensor of torch, as an array of `xp`; None for anything else.

    Neither library is imported for this: a function that returns one of its arrays has imported it.
    """
    cupy: Any = sys.modules.get("cupy")
    torch: Any = sys.modules.get("torch")
    if isinstance(result, getattr(torch, "Tensor", ())):
        tensor: Any = result
        tensor = tensor.float() if tensor.is_floating_point() else tensor  # NumPy has no bfloat16
        if xp is np or not tensor.is_cuda:
            return xp.asarray(tensor.numpy(force=True))
        # DLPack has this stream wait for torch's. The copy is made before torch may use the tensor's memory again.
        return xp.from_dlpack(tensor.detach()).copy()
    if isinstance(result, getattr(cupy, "ndarray", ())):
        return result if xp is cupy else to_numpy(result)
    return xp.asarray(result) if isinstance(result, np.ndarray) else None
