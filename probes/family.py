"""Probe families: parameters that make conditions, and a function that yields perturbed batches."""

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
from ..core.records import Value as Value  # under its own name, which says that families import it from here
from .arrays import Array, unit_range

MOST_CONDITIONS = 100_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of a set on their way through a family."""

    pixels: Array
    """(n, 3, size, size) uint8 RGB in [0, 255], which nobody may write to: all conditions share them, and on a GPU they
    may be the image set itself."""
    keys: Array
    """(n,) uint64 keys of the images, which noise is keyed by: see `images.set_files.image_keys`."""
    positions: NDArray[np.int64]
    """(n,) positions of the images in their set, in the host's memory. No built-in probe depends on them."""
    seed: int


Buffer = Callable[[], Array]
"""Gives an (n, 3, size, size) float32 array to fill, whose content is undefined; a family holds at most two that it has
not yielded."""

Perturbed = Iterator[tuple[Condition, Array]]
Perturb = Callable[[ModuleType, Batch, Sequence[Condition], Buffer], Perturbed]
"""Yields every condition of the group once, in an order of its own, with a buffer of images in [0, 1].

A buffer is not touched once it has been yielded, since sessions read it then. On a GPU all of this runs in the stream
of the thread that perturbs, so work that was asked for need not be done when a buffer is yielded.
"""


def even_size(condition: Condition, size: int) -> None:
    """The `check_size` of families that take an even number of pixels a side."""
    if size % 2:
        raise ProbeError(f"{condition.probe} needs an even number of pixels a side, not {size}")


def check_highest(condition: Condition, cycles: int, size: int) -> None:
    """ProbeError where images of so many pixels a side do not hold the condition's highest cycles per image."""
    if cycles > size // 2:
        raise ProbeError(f"{condition}: images of {size} pixels hold {size // 2} cycles at most, not {cycles}")


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    parse: Callable[[Any], Value]
    """The canonical value; ValueError says what is allowed."""
    published: tuple[Value, ...]
    """The values of the source, used where a study file names none; with `()` there are none, and a study has to name
    some."""
    pair: bool = False
    """Whether one value is a list of two numbers."""
    is_hidden: bool = False
    """Whether words leave it out where it has the published value."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter that charts draw the conditions of a probe over."""

    parameter: str
    title: str = ""
    """The title of the axis in charts; by default the name of the parameter."""
    cycles_per_pixel: Callable[[float], float] | None = None
    """The frequency at which a value of the parameter acts: times the images' side it is cycles per image."""
    cuts: bool = False
    """Whether the probe filters at that frequency, rounded down to whole cycles per image."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    summary: str
    version: int
    """Raised whenever the family's numbers change: it is part of every condition's digest."""
    parameters: tuple[Parameter, ...]
    perturb: Perturb
    """Families with the same function share one group, and so its transforms and noise. An attack needs the network
    too, so its images are made by a session, from what this function yields (see `probes.attacks`)."""
    axes: tuple[Axis, ...] = ()
    """One axis makes curves, two make maps: across, then down. A probe that declares none is drawn over the first
    parameter that is a number in all of its conditions and differs among them."""
    mirrored: bool = False
    """Whether a map has one condition at (x, y) and at (-x, -y)."""
    attack: bool = False
    random: bool = False
    """Whether the seed matters; where it does not, changing it re-runs nothing."""
    canonical: Callable[[dict[str, Value]], dict[str, Value]] = dict
    """Drops parameters that make no difference, so that equal conditions are one."""
    check_size: Callable[[Condition, int], None] = lambda _condition, _size: None
    """Raises ProbeError where the condition cannot be made of images of so many pixels a side. A study asks before it
    runs (`grid.Grid.check_size`), so `perturb` need not."""
    beside: tuple[str, Mapping[str, Value]] | None = None
    """A name and a setting: a condition that a study has whatever it asks for, unless its table says `NAME = false`."""
    files: tuple[str, ...] | None = None
    """Files that the version of a user's probe covers, relative to the folder of its own; None for a built-in one."""

    def conditions(self, table: Mapping[str, Any]) -> list[Condition]:
        """The one beside, and every combination of the table's values, one or a list for each parameter; each once."""
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
        """A setting in words, without its hidden parameters and those of `without`."""
        defaults = {parameter.name: parameter.published[0] for parameter in self.parameters if parameter.is_hidden}
        return in_words(
            (name, value) for name, value in setting.items() if name not in without and defaults.get(name) != value
        )

    def axes_of(self, settings: Sequence[Mapping[str, Value]]) -> tuple[Axis, ...]:
        """The axes that conditions of these settings are drawn over."""
        values = {name: {setting.get(name) for setting in settings} for name in (one.name for one in self.parameters)}
        numbers = [name for name in values if all(isinstance(value, (int, float)) for value in values[name])]
        varied = [name for name in numbers if len(values[name]) > 1]
        return self.axes or tuple(Axis(name) for name in (varied or numbers)[:1])

    def facts(self, setting: Mapping[str, Value], axes: tuple[Axis, ...]) -> Facts:
        """The facts about a condition beside its numbers."""
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
        """The value on an axis, which may be infinite; None for a condition without the parameter."""
        value = setting.get(axis.parameter)
        try:
            return None if value is None else float(value)
        except ValueError:
            raise UsageError(
                f"probe {self.name}: axis {axis.parameter} has the value {value!r}; name a parameter of numbers alone"
            ) from None

    def _values(self, parameter: Parameter, table: Mapping[str, Any]) -> list[Value]:
        if parameter.name not in table and not parameter.published:
            raise UsageError(f"probe {self.name}: {parameter.name} has no default; give a value or a list of values")
        raw = table.get(parameter.name, parameter.published)
        is_list = isinstance(raw, (list, tuple))
        if parameter.pair and is_list:
            is_list = not raw or isinstance(raw[0], (list, tuple, str))  # a pair may be text, such as "0.0 to 0.3"
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
    """A parser of bands: [low, high], or the text that it becomes. `edge` makes a number of each of the two."""

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
    """A parser of numbers in [low, high]."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"must be a number in [{low:g}, {high:g}], not {value!r}")
        return value + 0.0  # a float, and no negative zero, which JSON tells from zero

    return parse


def integer_in(low: int, high: int) -> Callable[[Any], int]:
    """A parser of whole numbers in [low, high]."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number in [{low}, {high}], not {value!r}")
        return value

    return parse


def one_of(*names: str) -> Callable[[Any], str]:
    """A parser of one of the names."""

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
