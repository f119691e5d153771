"""A measure: a number of a model's decisions that says what it needs, how it is computed, paired and shown.

A measure is one file of this folder and one row of `registry`, as a probe is one file and one row of `probes.grid`:
everything else asks the row. `plan`, `run` and `analyze` ask what it needs, `analyze` its estimates, `compare` its
differences, `correlate` whether it is a bias, charts and tables its title and unit.
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
    """The worth of a number: charts, reports and queries read the state, and the note is for people."""

    OK = "ok"
    """The value is sound. It has an interval, if its measure has one at all."""
    DOUBTFUL = "doubtful"
    """The value stands, and its note says what to mind: a peak or an end of an interval lies at a bound of its fit, an
    interval spans all that was tested, a benchmark is not whole."""
    NO_INTERVAL = "no_interval"
    """The value stands without an interval: too few independent images, or resamples that show no spread."""
    CENSORED_BELOW = "censored_below"
    """The threshold lies below the tested noise; its value is the weakest noise."""
    CENSORED_ABOVE = "censored_above"
    """The threshold lies above the tested noise; its value is the strongest noise."""
    DEGENERATE = "degenerate"
    """The number is of a fit that means nothing; where the fit gave a number, it is kept."""
    UNDETERMINED = "undetermined"
    """There is no value: what was measured does not determine it."""
    AT_CHANCE = "at_chance"
    """The accuracy or agreement that the number is of is not far enough above that of blind guesses or unrelated
    answers: a value, where there is one, says nothing of what the model sees."""
    MISSING = "missing"
    """There is no value: a condition, a prediction or a benchmark that it needs is not there."""
    FAILED = "failed"
    """There is no value: a measure of the user's own failed, and the note says how."""


MEANINGLESS = (State.DEGENERATE, State.UNDETERMINED, State.AT_CHANCE, State.MISSING, State.FAILED)
"""States of rows that have no number, or none that means anything."""
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
"""State -> what to do, so that a number is determined. A measure says more in `Measure.remedies`."""
UNLABELLED_REMEDIES = {
    **REMEDIES,
    State.AT_CHANCE: "check that the model is normalized as in its training, or run more images, of more classes",
}
"""The same where images have no labels."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval. NaN stands for what the data do not determine; `note` then says why."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    state: State = State.OK
    note: str | None = None
    n: int | None = None
    """Number of images that the value is of, where its measure counts them."""
    difference: tuple[float, float, float] | None = None
    """Value less that of the clean images, with the two ends of its interval; NaN where it has none."""

    def row(self, metric: str) -> dict[str, Any]:
        """The columns of the table measure_value from metric on, with None for NaN."""
        numbers = (self.value, self.low, self.high, *(self.difference or (np.nan,) * 3))
        return {"metric": metric, "n": self.n} | {
            **{name: None if np.isnan(number) else number for name, number in zip(NUMBERS, numbers, strict=True)},
            "state": self.state.value,
            "note": self.note,
        }

    def times(self, factor: float) -> Estimate:
        """The estimate in another unit."""
        difference, low, high = self.difference or (np.nan,) * 3
        return replace(
            self,
            value=factor * self.value,
            low=factor * self.low,
            high=factor * self.high,
            difference=self.difference and (factor * difference, factor * low, factor * high),
        )


NUMBERS = ("value", "low", "high", "difference", "difference_low", "difference_high")
"""Columns of the table measure_value that hold an estimate's numbers."""


Ends = tuple[float, float]


def nothing(state: State, note: str, n: int | None = None) -> Estimate:
    """An estimate without a value, and why."""
    return Estimate(state=state, note=note, n=n)


def too_few_images(independent: int) -> str:
    """Why an estimate has no interval where no more images are independent of each other."""
    return f"{independent} independent image{' is' if independent == 1 else 's are'} too few for an interval"


def estimate_of(
    share: Share,
    clean: Share | None = None,
    interval: Callable[[Share], Ends] = share_interval,
    paired_interval: Callable[[Share, Share], Ends | None] = difference_interval,
) -> Estimate:
    """The estimate of a share, with its difference from that of the clean images where there is one.

    It has no interval where one cluster holds all images.
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
    """The intervals of the differences of shares that both runs have, of the same images."""
    return {
        name: ends
        for name in shares_a.keys() & shares_b.keys()
        if (ends := difference_interval(shares_a[name], shares_b[name]))
    }


def with_unit(title: str, unit: str) -> str:
    """A title as charts write it; a share goes without its unit."""
    return title if unit in ("", "share") else f"{title} ({unit})"


@dataclass(frozen=True, slots=True)
class Available:
    """The conditions and labels that a study has on an image set, or on all of them, before it has run or after."""

    conditions: Sequence[Condition] = ()
    schemes: Collection[str] = ()
    """Label schemes of the images, such as `real` or `texture`."""
    labelled: bool = True
    classes: int = CLASSES
    """The fewest classes that a model of them decides between."""
    checkpoints: int = 1
    sliced: bool = False
    """Whether the images have attributes."""
    multilabel: bool = False
    """Whether the classes are sets of labels."""
    benchmarks: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The sets, for measures of many image sets, that may be each benchmark, see `generalization.by_accuracy`."""

    @property
    def has_floor(self) -> bool:
        """Whether answers without sight are right often enough to change a ratio by more than 0.002.

        Without labels it depends on how alike the clean answers are.
        """
        return not self.labelled or self.classes < CLASSES

    @property
    def conflicting(self) -> bool:
        """Whether the images have labels of two cues."""
        return any(cues.second in self.schemes for cues in CUES)

    def conditions_under(self, probe: str) -> list[Condition]:
        """The conditions of a probe."""
        return [condition for condition in self.conditions if condition.probe == probe]


@dataclass(frozen=True, slots=True)
class ImageValues:
    """A number of every image whose mean is an estimate.

    Raises ValueError for numbers beyond [-1, 1]: intervals are those of a mean in [0, 1].
    """

    values: Floats | Mask
    """(n,) in [-1, 1] with a mean in [0, 1]: by how much an image counts as right, say."""
    mask: Mask | None = None
    """(n,): the images that the mean is over; None for all."""
    uncounted: str = "no image counts"
    """Why there is no mean where no image counts."""
    judge: Callable[[Estimate], Estimate] = lambda estimate: estimate
    """Adds to the estimate what the values do not tell: that it says little, say."""
    comparable: bool = True
    """Whether other conditions are compared with this mean where it is that of the clean images."""

    def __post_init__(self) -> None:
        if self.values.dtype != bool and (beyond := np.abs(self.values) > 1).any():
            raise ValueError(
                f"a measure gives an image the value {self.values[beyond][0]:g}: values lie in [-1, 1] with a mean in "
                "[0, 1]; divide them by the largest that there can be, or give estimates with an interval instead"
            )

    def share(self, clusters: Ints) -> Share | None:
        """The mean with its error over (n,) clusters; None where no image counts."""
        if self.mask is None:
            return share_of(self.values, clusters)
        return share_of(self.values[self.mask], clusters[self.mask]) if self.mask.any() else None

    def estimate(self, clusters: Ints, clean: Share | None = None) -> Estimate:
        """The mean with its interval, and its difference from that of the clean images where there is one."""
        share = self.share(clusters)
        return self.judge(estimate_of(share, clean)) if share else nothing(State.UNDETERMINED, self.uncounted, 0)


Read = TypeVar("Read")
"""The data that a measure is computed from: see `outcomes`."""


def has_labels(available: Available) -> bool:
    """The `applies` of measures that take the labels of images."""
    return available.labelled


def under(*probes: str) -> Callable[[Available], bool]:
    """The `applies` of measures of the conditions of some probes."""
    return lambda available: any(available.conditions_under(probe) for probe in probes)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of sentences about models: see `comparison.verdict`."""

    verdict: Mapping[State, str] = field(default_factory=dict)
    """State -> what a model does, in words with {accuracy} and {value}."""
    change: tuple[str, str] | None = None
    """Verb and object of a model whose number is lower or higher: ("relies", "on low frequencies")."""
    needs_alike: str = ""
    """The measure that has to be alike in two models for a sentence to compare them by this one."""
    remedies: Mapping[State, str] = field(default_factory=dict)
    """State -> what to do, so that the number is determined, in addition to REMEDIES."""
    floor: float | None = None
    """The lowest value that can be tested; a number that is censored below it stays so."""
    agreement: tuple[str, str] | None = None
    """`change` where images have no labels, and answers may be kept that never were right."""
    clean_change: tuple[str, str] | None = None
    """`change` of a measure of single conditions on the images without perturbation, which have a clause of their own.
    """
    cases: str = "cases"
    """The noun for what is counted where a sentence is about several differences."""
    worst_part: str = ""
    """The clause on the part on which a model loses most, with {part} for its name; empty if parts have no clause."""
    is_choice: bool = False
    """Whether it is the number of one of several parts, which sentences name themselves."""


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """The figure that a published study has of a measure."""

    columns: tuple[str, ...]
    """Columns of its results that the figure is the mean of."""
    classes: int = CLASSES
    """The classes that it decided between."""


@dataclass(frozen=True, slots=True)
class Display:
    """The appearance of a measure in charts, tables, sentences and correlations."""

    title: str
    unit: str = "share"
    """share, octaves, cycles per image, percent …: a share is drawn from 0 to 1."""
    sense: int = 0
    """1 where a model with more of it is better, -1 where one with less is; 0 where neither is, so that no gate of a
    release can ask for it."""
    primary: bool = False
    """Whether it is the main accuracy of its cells: tables of cells and curves have it, with a test."""
    folded: bool = True
    """Whether the report shows its curves over conditions only when a reader opens them."""
    group: str = ""
    """The name under which `plan` lists several measures together."""
    quantity: str = ""
    """The quantity, where a report draws it: several estimators of one quantity share a panel."""
    panel: str = ""
    """The title of this panel; by default the label."""
    estimator: str = ""
    words: Words = field(default_factory=Words)
    published: PublishedFigure | None = None
    stands_for: str = ""
    """The measure whose place it takes in comparisons, correlations and charts, where an image set has both."""
    cut_of: str = ""
    """The filter whose curves cross half at this number, where charts mark it."""
    tie_to_clean: str = ""
    """The tie to the clean accuracy, in words, of a number that is correlated with it by its making."""

    @property
    def label(self) -> str:
        """The title with the unit, for charts and tables; a share goes without."""
        return with_unit(self.title, self.unit.replace(" per ", "/"))


@dataclass(frozen=True, slots=True)
class Measure(Generic[Read]):
    """One number. Measures with the same function are computed together, as probes with the same `perturb` are."""

    name: str
    """Name in SQL. Estimates named NAME_PART are parts of it, such as a bias by class."""
    display: Display
    applies: Callable[[Available], bool] = lambda _: True
    """Whether an image set has the measure at all, or some of what it needs."""
    needs: Callable[[Available], str | None] = lambda _: None
    """The conditions or labels that it lacks, in words; None where the decisions determine it."""
    estimates: Callable[[Read], Mapping[str, Estimate]] | None = None
    """Name -> estimate, of all measures with this function and their parts. None where `values` says all."""
    differences: Callable[[Read, Read], Mapping[str, Ends]] | None = None
    """Name -> 95 % interval of the value in B less that in A, paired over the same images in the same order."""
    values: Callable[[Read], ImageValues | None] | None = None
    """A number of every image of a condition, whose mean the estimate is: its interval, its difference from the clean
    images and that of two runs follow. The function gives None where the cell has no such number."""
    is_bias: bool = False
    """Whether `correlate` sets it against generalization, and a row says so where something is lacking."""
    people: Callable[[], Mapping[str, Estimate]] | None = None
    """Name -> estimate of people in published trials, of all measures with this function."""
