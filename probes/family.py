"""Define probe families: the parameters of a perturbation and the function that applies it to a batch of images.

A family turns the parameters in a study file into conditions. Each condition is one combination of parameter values.
Attacks (`probes.attacks`) and custom probes (`probes.custom`) are families too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ProbeError, UnknownName, UsageError
from ..core.records import Condition, Facts, digest_of, in_words
from ..core.records import Value as Value  # `as Value` marks a re-export: families import it from this module
from .arrays import Array, unit_range

MOST_CONDITIONS = 100_000
"""Maximum number of conditions that one table of parameters may produce."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one image set that a family perturbs together."""

    pixels: Array
    """RGB images, (n, 3, size, size) uint8 in [0, 255]. Do not write to this array: all conditions read it, and on a
    GPU it may be the memory of the image set itself."""
    keys: Array
    """Keys that seed the random numbers of each image, (n,) uint64; see `images.storage.image_keys`."""
    positions: NDArray[np.int64]
    """Positions of the images in their image set, (n,), in host memory. Built-in probes do not use them."""
    seed: int
    """Seed of the study. All random numbers are a function of the seed and the image's key."""


Buffer = Callable[[], Array]
"""Return an uninitialized (n, 3, size, size) float32 array for the images of one condition.

A family may hold at most two buffers that it has not yielded yet.
"""

Perturbed = Iterator[tuple[Condition, Array]]
Perturb = Callable[[ModuleType, Batch, Sequence[Condition], Buffer], Perturbed]
"""Yield each condition of the group exactly once, in any order, with a buffer that contains its images in [0, 1].

Do not modify a buffer after yielding it, because the session that receives it reads it from then on. On a GPU, the
function runs in the CUDA stream of the calling thread. Kernels that it launched may still be running when a buffer is
yielded.
"""


def even_size(condition: Condition, size: int) -> None:
    """Raise ProbeError if `size` is odd.

    Families use this as `check_size` if they need images with an even side length.
    """
    if size % 2:
        raise ProbeError(f"{condition.probe} needs an even number of pixels a side, not {size}")


def check_highest(condition: Condition, cycles: int, size: int) -> None:
    """Raise ProbeError if `cycles`, in cycles/image, is above the Nyquist limit of images of `size` x `size` pixels."""
    if cycles > size // 2:
        raise ProbeError(f"{condition}: images of {size} pixels hold {size // 2} cycles at most, not {cycles}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """Define one parameter of a probe family."""

    name: str
    """Name of the parameter in study files and results."""
    parse: Callable[[Any], Value]
    """Convert a value to its canonical form. Raises ValueError with a message that describes the allowed values."""
    published: tuple[Value, ...]
    """Values used in the source publication. They are the default if a study file does not set the parameter. If empty,
    a study must specify the values."""
    pair: bool = False
    """Whether a single value is a list of two numbers."""
    is_hidden: bool = False
    """Whether descriptions of a condition omit the parameter if it has the first of its published values."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Select a parameter as an axis of the plots of a probe."""

    parameter: str
    """Name of the parameter."""
    title: str = ""
    """Label of the axis in plots. Defaults to the name of the parameter."""
    cycles_per_pixel: Callable[[float], float] | None = None
    """Function from a value of the parameter to the spatial frequency of the condition in cycles/pixel. Multiply its
    result by the side length of the images to get cycles/image."""
    cuts: bool = False
    """Whether the probe is a filter with its cutoff at that frequency, rounded down to an integer number of
    cycles/image."""


@dataclass(frozen=True, slots=True)
class Family:
    """Define a probe: its parameters, its perturbation function and how its conditions are displayed.

    Built-in families are constants of the modules in `bandlens.probes`. Custom probes get their family from
    `probes.custom.user_family`.
    """

    name: str
    """Name of the probe in study files and results."""
    summary: str
    """One-line description of the perturbation."""
    version: int
    """Version of the implementation. Increase it whenever the perturbed images change. It is part of the digest of
    every condition, so stored predictions of older versions are not reused."""
    parameters: tuple[Parameter, ...]
    """Parameters of the perturbation, in the order in which descriptions list them."""
    perturb: Perturb
    """Perturbation function. Conditions of all families with the same function are passed to it in one call, so they
    can share transforms and noise.

    An attack needs the model too. Its function yields only the starting points, and a session computes the images from
    them (see `probes.attacks`).
    """
    axes: tuple[Axis, ...] = ()
    """Axes of the plots. With one axis, conditions are plotted as curves; with two, as maps (horizontal axis first). If
    empty, the axis is the first numeric parameter whose value varies between the conditions."""
    mirrored: bool = False
    """Whether a map is point-symmetric: (x, y) and (-x, -y) are the same condition."""
    attack: bool = False
    """Whether the perturbation is an adversarial attack, which computes images for each checkpoint separately."""
    random: bool = False
    """Whether the perturbation depends on the seed. If not, stored predictions stay valid when the seed changes."""
    canonical: Callable[[dict[str, Value]], dict[str, Value]] = dict
    """Bring a combination of parameter values to its canonical form, for example by dropping parameters without effect.
    Combinations with the same canonical form are one condition."""
    check_size: Callable[[Condition, int], None] = lambda _condition, _size: None
    """Raise ProbeError if the condition cannot be applied to images of this side length in pixels. A study calls this
    before it runs (`grid.Grid.check_size`), so `perturb` does not have to check again."""
    beside: tuple[str, Mapping[str, Value]] | None = None
    """Name and parameters of an additional condition. A study includes it by default and omits it if the table of the
    probe contains `NAME = false`."""
    files: tuple[str, ...] | None = None
    """Files included in the version of a custom probe, as paths relative to the probe's folder. None for built-in
    probes."""

    def conditions(self, table: Mapping[str, Any]) -> list[Condition]:
        """Return the conditions for a table of a study file.

        The result contains the additional condition (`beside`), unless it is switched off, and every combination of the
        parameter values. Duplicates are removed.

        Args:
            table: Parameter name -> one value or a list of values. Parameters that are not listed take their published
                values.

        Raises:
            UnknownName: A name in the table is not a parameter of this probe.
            UsageError: A value is not allowed, is missing, or there are more than `MOST_CONDITIONS` combinations.
        """
        names = [parameter.name for parameter in self.parameters]
        switch, beside = self.beside or (None, {})
        for name in table:
            if name not in names and name != switch:
                raise UnknownName(f"parameter of probe {self.name}", name, [*names, switch] if switch else names)
        with_beside = table.get(switch, True) if switch else False
        if not isinstance(with_beside, bool):
            raise UsageError(f"probe {self.name}: {switch} must be true or false, not {with_beside!r}")
        values = [self._values(parameter, table) for parameter in self.parameters]
        if prod(map(len, values)) > MOST_CONDITIONS:
            raise UsageError(f"probe {self.name}: more than {MOST_CONDITIONS:,} combinations of values; name fewer")
        combinations = (self.canonical(dict(zip(names, combination, strict=True))) for combination in product(*values))
        settings = [*([dict(beside)] if with_beside else []), *combinations]
        axes = self.axes_of(settings)
        return list(
            dict.fromkeys(
                Condition(
                    self.name,
                    tuple(setting.items()),
                    digest_of(self.name, self.version, setting),
                    self.facts(setting, axes),
                )
                for setting in settings
            )
        )

    def words(self, setting: Mapping[str, Value], without: Container[str] = ()) -> str:
        """Format the parameters of a condition as text.

        Hidden parameters at their default and the names in `without` are omitted.
        """
        defaults = {parameter.name: parameter.published[0] for parameter in self.parameters if parameter.is_hidden}
        return in_words(
            (name, value) for name, value in setting.items() if name not in without and defaults.get(name) != value
        )

    def axes_of(self, settings: Sequence[Mapping[str, Value]]) -> tuple[Axis, ...]:
        """Return the axes on which conditions with these parameters are plotted."""
        values = {name: {setting.get(name) for setting in settings} for name in (one.name for one in self.parameters)}
        numbers = [name for name in values if all(isinstance(value, (int, float)) for value in values[name])]
        varied = [name for name in numbers if len(values[name]) > 1]
        return self.axes or tuple(Axis(name) for name in (varied or numbers)[:1])

    def facts(self, setting: Mapping[str, Value], axes: tuple[Axis, ...]) -> Facts:
        """Return the description of a condition: its text, its coordinates in plots and its spatial frequency."""
        x, y = [self._number(axis, setting) for axis in axes] + [None] * (2 - len(axes))
        x_title, y_title = [axis.title or axis.parameter for axis in axes] + [None] * (2 - len(axes))
        cycles = axes[0].cycles_per_pixel if axes else None
        return Facts(
            setting=self.words(setting),
            series=self.words(setting, without=[axis.parameter for axis in axes]),
            x=x,
            x_title=x_title,
            y=y,
            y_title=y_title,
            mirrored=self.mirrored,
            cycles_per_pixel=None if cycles is None or x is None else cycles(x),
            cuts=bool(axes) and axes[0].cuts,
            attack=self.attack,
        )

    def _number(self, axis: Axis, setting: Mapping[str, Value]) -> float | None:
        """Return the coordinate on an axis, which may be infinite, or None if the condition does not have the
        parameter.
        """
        value = setting.get(axis.parameter)
        try:
            return None if value is None else float(value)
        except ValueError:
            raise UsageError(
                f"probe {self.name}: axis {axis.parameter} has the value {value!r}; name a parameter of numbers alone"
            ) from None

    def _values(self, parameter: Parameter, table: Mapping[str, Any]) -> list[Value]:
        """Parse the values that a table gives for a parameter, or return the published values."""
        if parameter.name not in table and not parameter.published:
            raise UsageError(f"probe {self.name}: {parameter.name} has no default; give a value or a list of values")
        raw = table.get(parameter.name, parameter.published)
        is_list = isinstance(raw, (list, tuple))
        if parameter.pair and is_list:
            is_list = not raw or isinstance(raw[0], (list, tuple, str))  # a pair can be text, such as "0.0 to 0.3"
        values = raw if is_list else [raw]
        if not values:
            raise UsageError(
                f"probe {self.name}: {parameter.name} is an empty list; leave it out for the published values"
            )
        try:
            return [parameter.parse(value) for value in values]
        except ValueError as error:
            raise UsageError(f"probe {self.name}: {parameter.name} {error}") from None


def band_to(limit: float, unit: str, edge: Callable[[Any], float]) -> Callable[[Any], str]:
    """Return a parser of frequency bands.

    The parser accepts [low, high] or text such as "0.0 to 0.3" and returns the text. It raises ValueError unless 0 <=
    low < high <= `limit`.

    Args:
        limit: Largest allowed value.
        unit: Unit of the values, for the error message.
        edge: Function that converts each of the two values to a number.
    """

    def parse(value: Any) -> str:
        try:
            low, high = map(edge, value.split(" to ") if isinstance(value, str) else value)
            if not 0 <= low < high <= limit:
                raise ValueError
        except (ValueError, TypeError):
            raise ValueError(f"must be [low, high]{unit} with 0 <= low < high <= {limit}, not {value!r}") from None
        return f"{low} to {high}"

    return parse


def number_in(low: float, high: float) -> Callable[[Any], float]:
    """Return a parser that accepts numbers in [low, high] and returns them as floats."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"must be a number in [{low:g}, {high:g}], not {value!r}")
        # Convert to float, and -0.0 to 0.0. JSON writes the two zeros differently, so their digests would differ.
        return value + 0.0

    return parse


def integer_in(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser that accepts integers in [low, high]."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number in [{low}, {high}], not {value!r}")
        return value

    return parse


def one_of(*names: str) -> Callable[[Any], str]:
    """Return a parser that accepts only the given names."""

    def parse(value: Any) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {value!r}")
        return str(value)

    return parse


def show_images(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the unperturbed images."""
    for condition in conditions:
        yield condition, unit_range(xp, batch.pixels, buffer())


CLEAN = Family("clean", "the images as they are", 1, (), show_images)
