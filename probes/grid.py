"""Expand the [probes] table of a study into conditions, grouped so that related ones share transforms and noise."""

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
"""Built-in probes that perturb images without a model, by name."""

PUBLISHED: Mapping[str, Mapping[str, Any]] = {name: {} for name in ("clean", "lowpass", "highpass", "critical_band")}
"""Probes of the published study with default parameters: clean images, 22 conditions with spectral filters and 29 with
critical-band noise."""


PROBES: Mapping[str, Family] = FAMILIES | ATTACKS
"""All built-in probes, including attacks, by name."""


def setting_in_words(probe: str, parameters: Mapping[str, Value], cycles: float | None = None) -> str:
    """Format the parameters of a condition as text, as in `Facts.setting`.

    For custom probes all parameters are included. If `cycles` is given, the frequency of a filter or noise band is
    formatted in cycles/image.
    """
    if probe not in PROBES:
        return in_words(parameters.items())
    return PROBES[probe].facts(parameters, PROBES[probe].axes).setting_of_frequency(cycles)


@dataclass(frozen=True, slots=True)
class Grid:
    """Probe families of a study and all of their conditions."""

    families: Mapping[str, Family]
    """Families by name."""
    conditions: tuple[Condition, ...]
    """Conditions whose perturbed images are the same for all checkpoints."""
    attacks: tuple[Condition, ...] = ()
    """Conditions whose images are computed for each checkpoint separately."""

    @property
    def clean(self) -> tuple[Condition, ...]:
        """Return the condition without perturbation, as a tuple of one."""
        return self.conditions[:1]

    def family(self, condition: Condition) -> Family:
        """Return the family of a condition."""
        return self.families[condition.probe]

    def check_size(self, size: int) -> None:
        """Raise ProbeError if a condition cannot be applied to images with a side length of `size` pixels."""
        for condition in (*self.conditions, *self.attacks):
            self.family(condition).check_size(condition, size)

    def groups(self, conditions: Sequence[Condition]) -> list[tuple[Perturb, list[Condition]]]:
        """Group conditions by their perturbation function, in the order of the grid."""
        grouped: dict[Perturb, list[Condition]] = {}
        for condition in conditions:
            grouped.setdefault(self.family(condition).perturb, []).append(condition)
        return list(grouped.items())


def make_grid(probes: Mapping[str, Mapping[str, Any]], folder: Path) -> Grid:
    """Create the grid for the [probes] table of a study.

    The grid always contains `clean`, because curves and metrics are relative to it.

    Args:
        probes: Probe name -> parameter name -> one value or a list of values. A table with `file`, or with a `function`
            in memory, defines a custom probe.
        folder: Folder that the `file` of a custom probe is relative to.

    Raises:
        UnknownName: No probe or parameter has the given name.
        UsageError: A table is invalid, or a custom probe has the name of a built-in one.
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
    """Return the family of a custom probe with the plot axes that its table specifies."""
    names = [axis] if isinstance(axis, str) else axis
    if not isinstance(names, list) or len(names) > 2 or not all(isinstance(parameter, str) for parameter in names):
        raise UsageError(f"probe {family.name}: axis must be a parameter, or a list of two for a map, not {axis!r}")
    choices = [parameter.name for parameter in family.parameters]
    for parameter in names:
        if parameter not in choices:
            raise UnknownName(f"axis of probe {family.name}", parameter, choices, "an axis is a parameter of the probe")
    return replace(family, axes=tuple(Axis(parameter) for parameter in names))


def condition_in_words(row: Mapping[str, Any]) -> str:
    """Format the condition of a result row, for example `critical_band noise_sd=0.2, frequency=3`.

    If `cycles` is not null, filters and noise bands are formatted with it, for example `lowpass below 22 cycles/image`.

    Args:
        row: Row with the columns `probe`, `parameters` (JSON text, as returned by SQL) and `cycles`.
    """
    setting = setting_in_words(row["probe"], json.loads(row["parameters"] or "{}"), row["cycles"])
    return f"{row['probe'] or ''} {setting}".strip()
