"""Define a metric: its requirements, its estimates, its paired differences and its display.

Each metric is declared in one file of this package and listed in `registry`, in the same way as a probe is declared in
one file and listed in `probes.grid`. All other code reads the declaration: `plan`, `run` and `analyze` read the
requirements, `analyze` the estimates, `compare` the paired differences, `correlate` whether the metric is a bias, and
charts and tables the title and unit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

import numpy as np

from ...core.protocol import CLASSES, CUES
from ...core.records import Condition
from ..statistics import Floats, Ints, Mask
from ..statistics.proportions import Share, difference_interval, share_interval, share_of


class State(StrEnum):
    """State of an estimate: whether its value can be used. Code reads the state; the note explains it to readers."""

    OK = "ok"
    """The value can be used. It has a confidence interval if its metric has one."""
    DOUBTFUL = "doubtful"
    """The value can be used with the caution that its note describes. For example, a fit ended at a bound, an interval
    spans the whole tested range, or a benchmark is incomplete."""
    NO_INTERVAL = "no_interval"
    """The value can be used, but has no interval: too few independent images, or resamples without any spread."""
    CENSORED_BELOW = "censored_below"
    """The threshold or cutoff is below the tested range. The value is the lower end of the range."""
    CENSORED_ABOVE = "censored_above"
    """The threshold or cutoff is above the tested range. The value is the upper end of the range."""
    DEGENERATE = "degenerate"
    """The value comes from a fit that is not meaningful. If the fit returned a number, it is stored."""
    UNDETERMINED = "undetermined"
    """There is no value, because the data do not determine it."""
    AT_CHANCE = "at_chance"
    """The underlying accuracy or agreement is not significantly above the chance level. If there is a value, it is not
    meaningful."""
    MISSING = "missing"
    """There is no value, because a required condition, prediction or benchmark is missing."""
    FAILED = "failed"
    """There is no value, because a custom metric raised an error. The note contains the error message."""


MEANINGLESS = (State.DEGENERATE, State.UNDETERMINED, State.AT_CHANCE, State.MISSING, State.FAILED)
"""States of estimates that have no value or no meaningful value."""
REMEDIES: Mapping[State, str] = {
    State.NO_INTERVAL: "run more images that are independent of each other",
    State.DEGENERATE: "run more images, or more conditions",
    State.UNDETERMINED: "run more images, or more conditions",
    State.AT_CHANCE: "check that labels are numbered as the classes of the model are, or run more images",
    State.CENSORED_BELOW: "add conditions below the tested ones to the study file",
    State.CENSORED_ABOVE: "add conditions above the tested ones to the study file",
    State.MISSING: "add what is lacking to the study file and run it",
    State.FAILED: "mend the measure and analyze again",
}
"""State -> what to do to obtain a usable value. A metric can add advice in `Measure.remedies`."""
UNLABELLED_REMEDIES = {
    **REMEDIES,
    State.AT_CHANCE: "check that the model is normalized as in its training, or run more images, of more classes",
}
"""The same for images without labels."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Value of a metric with its 95% confidence interval. Undetermined numbers are NaN, and `note` states why."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    state: State = State.OK
    note: str | None = None
    n: int | None = None
    """Number of images that the value is computed from, if the metric counts them."""
    difference: tuple[float, float, float] | None = None
    """Difference of the value from that of the clean images, and the two ends of its interval. NaN if undetermined."""

    def row(self, metric: str) -> dict[str, Any]:
        """Return the columns of the table measure_value from `metric` on, with None instead of NaN."""
        numbers = (self.value, self.low, self.high, *(self.difference or (np.nan,) * 3))
        return {"metric": metric, "n": self.n} | {
            **{name: None if np.isnan(number) else number for name, number in zip(NUMBERS, numbers, strict=True)},
            "state": self.state.value,
            "note": self.note,
        }

    def times(self, factor: float) -> Estimate:
        """Return the estimate multiplied by `factor`, for conversion to another unit."""
        difference, low, high = self.difference or (np.nan,) * 3
        return replace(
            self,
            value=factor * self.value,
            low=factor * self.low,
            high=factor * self.high,
            difference=self.difference and (factor * difference, factor * low, factor * high),
        )


NUMBERS = ("value", "low", "high", "difference", "difference_low", "difference_high")
"""Columns of the table measure_value that contain the numbers of an estimate."""


Ends = tuple[float, float]


def nothing(state: State, note: str, n: int | None = None) -> Estimate:
    """Return an estimate without a value, with the reason as its note."""
    return Estimate(state=state, note=note, n=n)


def too_few_images(independent: int) -> str:
    """Return the note for an estimate that has no interval because too few images are independent."""
    return f"{independent} independent image{' is' if independent == 1 else 's are'} too few for an interval"


def estimate_of(
    share: Share,
    clean: Share | None = None,
    interval: Callable[[Share], Ends] = share_interval,
    paired_interval: Callable[[Share, Share], Ends | None] = difference_interval,
) -> Estimate:
    """Make an estimate from a proportion, with its difference from the clean images if `clean` is given.

    The estimate has no interval if all images are in one cluster.

    Args:
        share: Proportion, or mean over images, with its error over clusters.
        clean: The same for the clean images.
        interval: Function that computes the interval of `share`.
        paired_interval: Function that computes the interval of the difference from `clean`.
    """
    if len(share.clusters) == 1:
        estimate = Estimate(share.value, state=State.NO_INTERVAL, note=too_few_images(1), n=share.images)
    else:
        estimate = Estimate(share.value, *interval(share), n=share.images)
    if clean is None:
        return estimate
    ends = paired_interval(clean, share) or (np.nan, np.nan)
    return replace(estimate, difference=(share.value - clean.value, *ends))


def paired_intervals(shares_a: Mapping[str, Share], shares_b: Mapping[str, Share]) -> dict[str, Ends]:
    """Compute the intervals of B - A for the proportions that both runs have, over the same images."""
    return {
        name: ends
        for name in shares_a.keys() & shares_b.keys()
        if (ends := difference_interval(shares_a[name], shares_b[name]))
    }


def with_unit(title: str, unit: str) -> str:
    """Return a title with its unit in parentheses, as in charts. Proportions have no unit."""
    return title if unit in ("", "share") else f"{title} ({unit})"


@dataclass(frozen=True, slots=True)
class Available:
    """What metrics can be computed from: the conditions and labels of an image set, before or after a run."""

    conditions: Sequence[Condition] = ()
    schemes: Collection[str] = ()
    """Label schemes of the images, such as `real` or `texture`."""
    labelled: bool = True
    classes: int = CLASSES
    """Number of classes in the decision space. If it depends on the model, the smallest number."""
    checkpoints: int = 1
    sliced: bool = False
    """Whether the images have attributes."""
    multilabel: bool = False
    """Whether each class represents a set of labels."""
    benchmarks: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Image sets that may be (part of) each benchmark, for metrics over many sets. See `generalization.by_accuracy`."""

    @property
    def has_floor(self) -> bool:
        """Whether random predictions are correct often enough to change a ratio of accuracies by more than 0.002.

        This is always assumed without labels, because the chance level then depends on the clean predictions.
        """
        return not self.labelled or self.classes < CLASSES

    @property
    def conflicting(self) -> bool:
        """Whether the images have labels of two cues."""
        return any(cues.second in self.schemes for cues in CUES)

    def conditions_under(self, probe: str) -> list[Condition]:
        """Return the conditions of a probe."""
        return [condition for condition in self.conditions if condition.probe == probe]


@dataclass(frozen=True, slots=True)
class ImageValues:
    """Per-image values whose mean is the estimate of a metric.

    Raises ValueError if a value is outside [-1, 1], because the intervals are those of a mean in [0, 1].
    """

    values: Floats | Mask
    """Values in [-1, 1] with a mean in [0, 1], (n,). For example, whether each prediction is correct."""
    mask: Mask | None = None
    """Which images the mean is computed over, (n,). None for all images."""
    uncounted: str = "no image counts"
    """Note of the estimate if `mask` selects no image."""
    judge: Callable[[Estimate], Estimate] = lambda estimate: estimate
    """Function that adjusts the estimate for reasons that the values do not show. For example, it can change the state
    to `doubtful`."""
    comparable: bool = True
    """Whether other conditions are compared with this mean, if it is the mean over the clean images."""

    def __post_init__(self) -> None:
        if self.values.dtype != bool and (beyond := np.abs(self.values) > 1).any():
            raise ValueError(
                f"a measure gives an image the value {self.values[beyond][0]:g}: values lie in [-1, 1] with a mean in "
                "[0, 1]; divide them by the largest that there can be, or give estimates with an interval instead"
            )

    def share(self, clusters: Ints) -> Share | None:
        """Return the mean with its error over clusters (n,), or None if no image is included."""
        if self.mask is None:
            return share_of(self.values, clusters)
        return share_of(self.values[self.mask], clusters[self.mask]) if self.mask.any() else None

    def estimate(self, clusters: Ints, clean: Share | None = None) -> Estimate:
        """Estimate the mean with its interval, and the difference from the clean images if `clean` is given."""
        share = self.share(clusters)
        return self.judge(estimate_of(share, clean)) if share else nothing(State.UNDETERMINED, self.uncounted, 0)


Read = TypeVar("Read")
"""Type of the data that a metric is computed from. See `predictions`."""


def has_labels(available: Available) -> bool:
    """Return whether there are labels. For `applies` of metrics that require labels."""
    return available.labelled


def under(*probes: str) -> Callable[[Available], bool]:
    """Return a function for `applies` of metrics that are computed from conditions of at least one of the probes."""
    return lambda available: any(available.conditions_under(probe) for probe in probes)


@dataclass(frozen=True, slots=True)
class Words:
    """Phrases for sentences about models. See `comparison.verdict`."""

    verdict: Mapping[State, str] = field(default_factory=dict)
    """State -> what a model does, with the placeholders {accuracy} and {value}."""
    change: tuple[str, str] | None = None
    """Verb and object of a model whose value is lower or higher, for example ("relies", "on low frequencies")."""
    needs_alike: str = ""
    """Metric in which two models must not differ for a sentence to compare them by this one."""
    remedies: Mapping[State, str] = field(default_factory=dict)
    """State -> what to do to obtain a usable value, in addition to REMEDIES."""
    floor: float | None = None
    """Lowest value that can be tested. No condition can resolve a value that is censored below it."""
    agreement: tuple[str, str] | None = None
    """`change` without labels, where predictions that stay the same may never have been correct."""
    clean_change: tuple[str, str] | None = None
    """`change` on the clean images, for a metric of single conditions. Clean images have a clause of their own."""
    cases: str = "cases"
    """Noun for what is counted in a sentence about several differences."""
    worst_part: str = ""
    """Clause about the slice on which a model loses most, with the placeholder {part}. If empty, there is no clause."""
    is_choice: bool = False
    """Whether the value belongs to one of several slices, which sentences name themselves."""


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """Where the published results contain the same metric."""

    columns: tuple[str, ...]
    """Columns of the published results whose mean is the metric."""
    classes: int = CLASSES
    """Number of classes in the decision space of the published study."""


@dataclass(frozen=True, slots=True)
class Display:
    """How charts, tables, sentences and correlations present a metric."""

    title: str
    unit: str = "share"
    """Unit: share, octaves, cycles per image, percent, and so on. The axis of a share ranges from 0 to 1."""
    sense: int = 0
    """1 if higher values are better, -1 if lower values are better, and 0 if neither is. A release gate can only test
    metrics with a nonzero sense."""
    primary: bool = False
    """Whether it is the main accuracy of cells, which tables of cells and curves show with a significance test."""
    folded: bool = True
    """Whether the report collapses its curves over conditions until the reader expands them."""
    group: str = ""
    """Name under which `plan` lists several metrics together."""
    quantity: str = ""
    """Quantity that is estimated, if a report plots it. Several estimators of one quantity share a panel."""
    panel: str = ""
    """Title of this panel. The label by default."""
    estimator: str = ""
    words: Words = field(default_factory=Words)
    published: PublishedFigure | None = None
    stands_for: str = ""
    """Metric that this one replaces in comparisons, correlations and charts, if an image set has both."""
    cut_of: str = ""
    """Filter whose accuracy curve reaches one half at this value. Charts mark the value on the curve."""
    tie_to_clean: str = ""
    """Reason why the metric is correlated with clean accuracy by construction."""

    @property
    def label(self) -> str:
        """Title with its unit, for charts and tables. Proportions have no unit."""
        return with_unit(self.title, self.unit.replace(" per ", "/"))


@dataclass(frozen=True, slots=True)
class Measure(Generic[Read]):
    """Definition of a metric: what it needs, how it is computed and compared, and how it is displayed.

    Define `values` if the metric is a mean over images of one condition. Its interval, its difference from the clean
    images and its difference between two runs are then computed by general code. Define `estimates` for all other
    metrics, and `differences` if two runs can be paired. Metrics with the same `estimates` function are computed
    together, in one call. List the metric in `registry`.
    """

    name: str
    """Name in SQL. Estimates named NAME_PART are parts of the metric, such as a bias by class."""
    display: Display
    applies: Callable[[Available], bool] = lambda _: True
    """Returns whether an image set has the metric, or at least some of what the metric requires."""
    needs: Callable[[Available], str | None] = lambda _: None
    """Returns a description of the conditions or labels that are missing, or None if the metric can be computed."""
    estimates: Callable[[Read], Mapping[str, Estimate]] | None = None
    """Returns the estimates of all metrics with this function, and of their parts, by name. None if `values` is set."""
    differences: Callable[[Read, Read], Mapping[str, Ends]] | None = None
    """Returns 95% confidence intervals of B - A by name, paired over the same images in the same order."""
    values: Callable[[Read], ImageValues | None] | None = None
    """Returns per-image values of a condition, or None if the cell has none. The mean is the estimate. Its interval,
    its difference from the clean images and the difference between two runs are computed from these values."""
    is_bias: bool = False
    """Whether `correlate` relates it to generalization. If something is missing, a row with the reason is stored."""
    people: Callable[[], Mapping[str, Estimate]] | None = None
    """Returns estimates for human observers from published trials, by name, of all metrics with this function."""
