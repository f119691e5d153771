"""What a probe family is: parameters that make conditions, and a function that yields perturbed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ProbeError, UnknownName, UsageError
from ..records import Condition, digest_of
from .arrays import Array

Value = float | int | str
MOST_CONDITIONS = 100_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of a set on their way through a family."""

    pixels: Array
    """(n, 3, size, size) uint8 RGB in [0, 255]."""
    keys: Array
    """(n,) uint64 keys of the images, which noise is keyed by: see `images.files.image_keys`."""
    positions: NDArray[np.int64]
    """(n,) places of the images in their set, in the host's memory. No built-in probe depends on them."""
    seed: int


Buffer = Callable[[], Array]
"""Gives an (n, 3, size, size) float32 array to fill; a family holds at most two that it has not yielded."""

Perturb = Callable[[ModuleType, Batch, Sequence[Condition], Buffer], Iterator[tuple[Condition, Array]]]
"""Yields every condition of the group once, in an order of its own, with a buffer of images in [0, 1]."""


def any_size(_: Condition, __: int) -> None:
    """The `check_size` of families that take every size."""


def even_size(condition: Condition, size: int) -> None:
    """The `check_size` of families that take an even number of pixels a side."""
    if size % 2:
        raise ProbeError(f"{condition.probe} needs an even number of pixels a side, not {size}")


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    parse: Callable[[Any], Value]
    """The canonical value; ValueError says what is allowed."""
    published: tuple[Value, ...]
    """The values of the source, used where a study file names none."""
    pair: bool = False
    """Whether one value is a list of two numbers."""


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
    random: bool = False
    """Whether the seed matters; where it does not, changing it re-runs nothing."""
    canonical: Callable[[dict[str, Value]], dict[str, Value]] = dict
    """Drops parameters that make no difference, so that equal conditions are one."""
    check_size: Callable[[Condition, int], None] = any_size
    """Raises ProbeError where the condition cannot be made of images of so many pixels a side. A study asks before it
    runs (`grid.Grid.check_size`), so `perturb` need not."""
    beside: tuple[str, Mapping[str, Value]] | None = None
    """A name and a setting: a condition that a study has whatever it asks for, unless its table says `NAME = false`."""
    files: tuple[str, ...] = ()
    """Of a user's probe: what its version covers, relative to the folder of its file."""

    def conditions(self, given: Mapping[str, Any]) -> list[Condition]:
        """The one beside, and every combination of values given, a value or a list for each parameter; each once."""
        names = [parameter.name for parameter in self.parameters]
        switch, beside = self.beside or (None, {})
        for name in given:
            if name not in names and name != switch:
                raise UnknownName(f"parameter of probe {self.name}", name, [*names, switch] if switch else names)
        wanted = given.get(switch, True) if switch else False
        if not isinstance(wanted, bool):
            raise UsageError(f"probe {self.name}: {switch} must be true or false, not {wanted!r}")
        values = [self._values(parameter, given) for parameter in self.parameters]
        if prod(map(len, values)) > MOST_CONDITIONS:
            raise UsageError(f"probe {self.name}: more than {MOST_CONDITIONS:,} combinations of values; name fewer")
        combinations = (self.canonical(dict(zip(names, combination, strict=True))) for combination in product(*values))
        settings = [*([dict(beside)] if wanted else []), *combinations]
        return list(
            dict.fromkeys(
                Condition(self.name, tuple(setting.items()), digest_of(self.name, self.version, setting))
                for setting in settings
            )
        )

    def _values(self, parameter: Parameter, given: Mapping[str, Any]) -> list[Value]:
        if parameter.name not in given and not parameter.published:
            raise UsageError(f"probe {self.name}: {parameter.name} has no default; give a value or a list of values")
        raw = given.get(parameter.name, parameter.published)
        several = isinstance(raw, (list, tuple))
        if parameter.pair and several:
            several = not raw or isinstance(raw[0], (list, tuple, str))
        listed = raw if several else [raw]
        if not listed:
            raise UsageError(
                f"probe {self.name}: {parameter.name} is an empty list; leave it out for the published values"
            )
        try:
            return [parameter.parse(value) for value in listed]
        except ValueError as error:
            raise UsageError(f"probe {self.name}: {parameter.name} {error}") from None


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
