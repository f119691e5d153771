"""A user's own measure: a Python file with a function from a model's decisions to a number, or to one of every image.

The function takes by name arrays of the n images of one condition (RESERVED), and parameters to which the study gives
values. Where it returns n numbers, their mean is the estimate and has the interval of `statistics.shares` over
clusters; one number has percentiles over resampled clusters, for which the function is called again. So has the
difference from the clean images, paired over the same images. Identity, process and errors are those of own probes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BandlensError, StoreError, UsageError
from ...records import digest_of
from ...user_function import UserFunction, settings_of
from ...user_source import parse_source
from ..statistics.arrays import Floats
from ..statistics.images import interval
from ..statistics.shares import share_of
from .base import Available, Estimate, Measure, Options, Scope, State, less_clean, nothing
from .outcomes import CellOutcomes, Decisions, Outcomes
from .own_process import Answer, answer_of_cell
from .registry import MEASURES

RESERVED: Mapping[str, str] = {
    "predicted": "the class predicted for each image",
    "label": "the class that each image shows",
    "right": "whether each image is right, or without labels predicted as when clean",
    "label_rank": "the number of classes scored above each image's label",
    "confidence": "the probability of each predicted class",
    "cluster": "the cluster of each image; images of one cluster are not independent",
    "class_names": "what classes are called, a dict by their number",
}
"""The arguments that a function may take beside the measure's parameters."""
OF_LABELS = ("label", "label_rank")
"""Arrays that images without labels do not have."""
KEYS = ("file", "function", "uses", "unit")
"""Keys in the table of an own measure that are no parameters of its function."""
CALL_SECONDS = 60.0
"""Seconds that a call may take. One is for a single cell; a measure that takes more would take hours for a study."""
ENOUGH = 0.95
"""Share of resamples that must have a number for an interval."""
MOST_FAILURES = 3
"""Failures in a row after which a measure is not called again: a process that crashes takes a while to start."""


def start_measures(tables: Mapping[str, Mapping[str, Any]], folder: Path) -> list[OwnMeasure]:
    """Start the processes of a study's own measures and describe them.

    Args:
        tables: the study's [measures]: name -> file, uses, function, unit, and values of parameters.
        folder: the study's folder, which a measure's `file` is relative to.

    Raises UsageError where a table, or the file that it names, is none of a measure.
    """
    functions = {name: _start(name, table, folder) for name, table in tables.items()}
    return [_describe(name, function, tables[name]) for name, function in functions.items()]


def _start(name: str, table: Mapping[str, Any], folder: Path) -> UserFunction:
    if not isinstance(table, Mapping) or "file" not in table:
        raise UsageError(f'measure {name} must be a table with a file, such as {name} = {{ file = "{name}.py" }}')
    if name in MEASURES or not name.isidentifier():
        why = "a built-in measure has that name" if name in MEASURES else "a name has letters, digits and _ alone"
        raise UsageError(f"measure {name}: {why}, so give yours another")
    if reserved := [key for key in RESERVED if key in table]:
        raise UsageError(
            f"measure {name}: {reserved[0]} is {RESERVED[reserved[0]]}, which its function is given; call the "
            "function's own parameter something else"
        )
    source = parse_source(f"measure {name}", table, folder)
    return UserFunction(f"measure {name}", source, str(table.get("function") or name), "predicted", StoreError)


def _describe(name: str, function: UserFunction, table: Mapping[str, Any]) -> OwnMeasure:
    title, parameters = function.describe()
    defaults = settings_of(parameters, RESERVED, function)
    taken = tuple(parameter for parameter in parameters if parameter in RESERVED)
    settings = {key: value for key, value in table.items() if key not in KEYS}
    for key in settings:
        if key not in defaults:
            raise UsageError(f"measure {name}: {function.name} in {function.source.file} has no parameter {key}")
    for key, default in defaults.items():
        if key not in settings and not default:
            raise UsageError(f"measure {name}: {key} has no default; give it a value in the study")
    unit = table.get("unit", "")
    if not isinstance(unit, str):
        raise UsageError(f"measure {name}: unit must be text, such as share, not {unit!r}")
    return OwnMeasure(name, title or name.replace("_", " "), unit, function, taken, settings)


@dataclass
class OwnMeasure:
    """A measure of a user's own: `measures` has the rows that it adds to the built-in ones."""

    name: str
    title: str
    unit: str
    function: UserFunction
    taken: tuple[str, ...]
    """Names of RESERVED that the function takes."""
    settings: Mapping[str, Any]
    _failures: int = 0
    _last_failure: str = ""
    _clean: tuple[Decisions, Answer | str] | None = field(default=None, repr=False)
    """The decisions on clean images that were asked about last, and the answer: each condition is compared with it."""

    @property
    def digest(self) -> str:
        """Identity of the numbers: the files, the function and the values of its parameters."""
        return digest_of(self.function.digest, self.function.name, dict(self.settings))

    @property
    def condition_measure(self) -> Measure[CellOutcomes]:
        return Measure(
            self.name, self.title, self.unit, Scope.CONDITION, estimates=self.estimates, needs=self.needs, folded=False
        )

    @property
    def grid_measure(self) -> Measure[Outcomes]:
        """The number of the clean images, which `correlate` sets against generalization."""
        return Measure(
            self.name, self.title, self.unit, Scope.GRID, estimates=self.clean_estimates, needs=self.needs, is_bias=True
        )

    def needs(self, available: Available) -> str | None:
        """The labels or names that an image set lacks and the function takes, in words."""
        lacking = [name for name in self.taken if name in OF_LABELS and not available.labelled]
        return f"it takes {' and '.join(lacking)}, and the images have no labels" if lacking else None

    def clean_estimates(self, outcomes: Outcomes, options: Options) -> dict[str, Estimate]:
        clean = outcomes.clean
        return {} if clean is None else self.estimates(clean, options)

    def estimates(self, cell: CellOutcomes, _: Options) -> dict[str, Estimate]:
        """The estimate of one cell, with its difference from the clean images."""
        clean = cell.unperturbed()
        clean_answer = None if clean is None else self._clean_answer(clean)
        answer = clean_answer if cell.is_clean and clean_answer is not None else self._answer(cell)
        if isinstance(answer, str):
            return {self.name: nothing(State.FAILED, answer)}
        compared = None if cell.is_clean or isinstance(clean_answer, str) else clean_answer
        return {self.name: _estimate(answer, compared, cell)}

    def _clean_answer(self, clean: CellOutcomes) -> Answer | str:
        if self._clean is None or self._clean[0] is not clean.decisions:
            self._clean = (clean.decisions, self._answer(clean))
        return self._clean[1]

    def _answer(self, cell: CellOutcomes) -> Answer | str:
        """The answer of the function for a cell, or the reason why there is none."""
        if self._failures >= MOST_FAILURES:
            return self._last_failure
        if "confidence" in self.taken and cell.decisions.confidence is None:
            return f"measure {self.name} takes confidence, which is not known of all predictions"
        if "right" in self.taken and cell.right is None:
            return f"measure {self.name} takes right, and there is no clean prediction to agree with"
        try:
            answer: Answer = self.function.call(
                answer_of_cell,
                self.function.what,
                _arrays(cell, self.taken),
                cell.images.clusters,
                self.settings,
                seconds=CALL_SECONDS,
            )
        except BandlensError as error:
            self._failures, self._last_failure = self._failures + 1, str(error)
            return str(error)
        self._failures = 0
        # Arrays of a result lie in memory that the next call overwrites.
        values = None if answer.values is None else answer.values.copy()
        return Answer(answer.value, values, answer.drawn.copy())


def _arrays(cell: CellOutcomes, names: Sequence[str]) -> dict[str, Any]:
    """The arrays and class names that a function takes."""
    decisions, images = cell.decisions, cell.images
    read: Mapping[str, Callable[[], Any]] = {
        "predicted": lambda: decisions.predicted.astype(np.int64),
        "label": lambda: images.label,
        "right": lambda: cell.right,
        "label_rank": lambda: None if decisions.rank is None else decisions.rank.astype(np.int64),
        "confidence": lambda: decisions.confidence,
        "cluster": lambda: images.clusters,
        "class_names": lambda: dict(cell.class_names),
    }
    return {name: read[name]() for name in names}


def _estimate(answer: Answer, clean: Answer | None, cell: CellOutcomes) -> Estimate:
    if answer.values is not None:
        return _mean_estimate(answer.values, None if clean is None else clean.values, cell)
    value = np.nan if answer.value is None else answer.value
    low, high = _percentiles(answer.drawn)
    difference = None
    if clean is not None and clean.value is not None:
        # Both drew the same clusters, since resamples depend on clusters alone.
        difference = (value - clean.value, *_percentiles(answer.drawn - clean.drawn))
    if np.isnan(low):
        note = f"{len(np.unique(cell.images.clusters))} independent images are too few for an interval"
        if len(answer.drawn):
            note = "too many resamples of the images have no number for an interval"
        return Estimate(value, state=State.NO_INTERVAL, note=note, n=len(cell.images), difference=difference)
    return Estimate(value, low, high, n=len(cell.images), difference=difference)


def _mean_estimate(values: Floats, clean: Floats | None, cell: CellOutcomes) -> Estimate:
    """The estimate of a mean. Numbers outside of [0, 1] are brought into it by their range for the interval."""
    everything = values if clean is None else np.concatenate([values, clean])
    lowest, span = min(0.0, float(everything.min())), 1.0
    span = max(1.0, float(everything.max())) - lowest
    clusters = cell.images.clusters
    share = share_of((values - lowest) / span, clusters)
    compared = None if clean is None else share_of((clean - lowest) / span, clusters)
    estimate = less_clean(share, compared).times(span)
    return estimate if lowest == 0 else estimate.plus(lowest)


def _percentiles(drawn: Floats) -> tuple[float, float]:
    defined = drawn[~np.isnan(drawn)]
    return interval(defined) if len(drawn) and len(defined) >= ENOUGH * len(drawn) else (np.nan, np.nan)
