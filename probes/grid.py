"""The conditions of a study, and how they are grouped so that a group shares its transforms and noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.custom.load import TABLE_KEYS
from ..core.errors import UnknownName, UsageError
from ..core.records import Condition, Value, in_words
from .attacks import ATTACKS
from .blur_and_shuffle import BILATERAL, CHANNEL_SHUFFLE, GREY_BLEND, PATCH_SHUFFLE
from .critical_band import CRITICAL_BAND
from .custom import user_family
from .family import CLEAN, Axis, Family, Perturb
from .fourier import FOURIER_BASIS, FOURIER_BIN, POWER_LAW_NOISE
from .grayscale import CONTRAST, GAUSSIAN_HIGHPASS, GAUSSIAN_LOWPASS, UNIFORM_NOISE
from .octaves import BANDPASS, BANDSTOP, OCTAVE_MASK
from .phase import PHASE_SCRAMBLE, PHASE_SHIFT
from .spectral import HIGHPASS, LOWPASS

FAMILIES = {
    family.name: family
    for family in (
        CLEAN,
        *(LOWPASS, HIGHPASS, CRITICAL_BAND),
        *(FOURIER_BASIS, FOURIER_BIN, POWER_LAW_NOISE),
        *(GAUSSIAN_LOWPASS, GAUSSIAN_HIGHPASS, CONTRAST, UNIFORM_NOISE, PHASE_SCRAMBLE),
        PHASE_SHIFT,
        *(PATCH_SHUFFLE, BILATERAL, GREY_BLEND, CHANNEL_SHUFFLE),
        *(OCTAVE_MASK, BANDPASS, BANDSTOP),
    )
}

PUBLISHED: Mapping[str, Mapping[str, Any]] = {name: {} for name in ("clean", "lowpass", "highpass", "critical_band")}
"""The study's grid: clean, 22 spectral and 29 critical-band conditions."""


PROBES: Mapping[str, Family] = FAMILIES | ATTACKS


def setting_in_words(probe: str, parameters: Mapping[str, Value], cycles: float | None = None) -> str:
    """The setting of a condition, as `Facts.setting` words it; of a user's probe all parameters are shown.

    Where the cycles per image of a filter or band are known, its setting has them.
    """
    if probe not in PROBES:
        return in_words(parameters.items())
    return PROBES[probe].facts(parameters, PROBES[probe].axes).setting_of_frequency(cycles)


@dataclass(frozen=True, slots=True)
class Grid:
    """The families of a study and all of their conditions."""

    families: Mapping[str, Family]
    conditions: tuple[Condition, ...]
    """Those that perturb an image for all checkpoints alike."""
    attacks: tuple[Condition, ...] = ()
    """Those that each checkpoint needs images of its own for."""

    @property
    def clean(self) -> tuple[Condition, ...]:
        """The condition that changes nothing, alone."""
        return self.conditions[:1]

    def family(self, condition: Condition) -> Family:
        return self.families[condition.probe]

    def check_size(self, size: int) -> None:
        """ProbeError where a condition cannot be made of images of so many pixels a side."""
        for condition in (*self.conditions, *self.attacks):
            self.family(condition).check_size(condition, size)

    def groups(self, conditions: Sequence[Condition]) -> list[tuple[Perturb, list[Condition]]]:
        """The conditions by the function that perturbs for them, in the grid's order."""
        grouped: dict[Perturb, list[Condition]] = {}
        for condition in conditions:
            grouped.setdefault(self.family(condition).perturb, []).append(condition)
        return list(grouped.items())


def make_grid(probes: Mapping[str, Mapping[str, Any]], folder: Path) -> Grid:
    """A study's [probes] table as a grid. `clean` is always part of it: every curve is relative to it.

    Args:
        probes: family name -> parameter name -> value or list of values; a table with `file`, or with a `function`
            in memory, is a user's probe.
        folder: what a user's `file` is relative to.
    """
    families: dict[str, Family] = {"clean": CLEAN}
    conditions: list[Condition] = CLEAN.conditions({})
    for name, table in probes.items():
        if not isinstance(table, Mapping):
            owners = [probe for probe, family in PROBES.items() if name in [key.name for key in family.parameters]]
            if owners:
                raise UsageError(f"{name} is no probe, but a parameter, as in {owners[0]} = {{ {name} = … }}")
            raise UsageError(f"probe {name} must be a table of parameters, such as {name} = {{}}, not {table!r}")
        parameters = table
        if "file" in table or callable(table.get("function")):
            if name in PROBES:
                raise UsageError(f"probe {name}: a built-in probe has that name, so give yours another")
            family = _with_axes(user_family(name, table, folder), table.get("axis", []))
            parameters = {key: value for key, value in table.items() if key not in (*TABLE_KEYS, "axis")}
        elif name in PROBES:
            family = PROBES[name]
        else:
            hint = '`bandlens probes list` has all; a probe of your own needs `file = "…"`'
            raise UnknownName("probe", name, PROBES, hint)
        families[name] = family
        conditions += family.conditions(parameters)
    distinct = list(dict.fromkeys(conditions))
    attacks = tuple(condition for condition in distinct if condition.facts.attack)
    return Grid(families, tuple(condition for condition in distinct if not condition.facts.attack), attacks)


def _with_axes(family: Family, axis: Any) -> Family:
    """The family of a user's probe, drawn over the axes that its table names."""
    names = [axis] if isinstance(axis, str) else axis
    if not isinstance(names, list) or len(names) > 2 or not all(isinstance(parameter, str) for parameter in names):
        raise UsageError(f"probe {family.name}: axis must be a parameter, or a list of two for a map, not {axis!r}")
    choices = [parameter.name for parameter in family.parameters]
    for parameter in names:
        if parameter not in choices:
            raise UnknownName(f"axis of probe {family.name}", parameter, choices, "an axis is a parameter of the probe")
    return replace(family, axes=tuple(Axis(parameter) for parameter in names))


def condition_in_words(row: Mapping[str, Any]) -> str:
    """The condition of a row with probe, parameters, which SQL gives as JSON, and cycles, by which filters are named.

    It is `noise_sd=0.2, frequency=3` behind the probe, or with cycles per image `lowpass below 22 cycles/image`.
    """
    setting = setting_in_words(row["probe"], json.loads(row["parameters"] or "{}"), row["cycles"])
    return f"{row['probe'] or ''} {setting}".strip()
