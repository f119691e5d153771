"""Custom metrics: user-supplied functions that compute a metric from the predictions of a model."""

# The function receives arrays of the n images of one condition by name (see RESERVED), and parameters whose values are
# in the study file. If it returns n values, the estimate is their mean, with the confidence interval of
# `statistics.proportions` over clusters. If it returns one number, the interval consists of percentiles over resampled
# clusters, and the function is called again for each resample. The difference from the clean images is paired over the
# same images and has the same kind of interval. Identification and errors work as for custom probes.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.custom.call import UserFunction, private_copy, settings_of, show_stack, user_function
from ...core.custom.load import TABLE_KEYS
from ...core.errors import BandlensError, StoreError, UnknownName, UsageError, did_you_mean
from ...core.records import digest_of
from ..database.store import Store
from ..statistics import Floats, Ints
from ..statistics.proportions import difference_interval, share_of
from ..statistics.resampling import FEWEST_CLUSTERS, interval
from .base import Available, Display, Ends, Estimate, Measure, State, estimate_of, nothing, too_few_images
from .predictions import CellOutcomes, ImageTruth, Outcomes
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
"""Arguments that a function can have in addition to the parameters of the metric, with their meaning."""
COLUMNS, INTERVAL_ENDS = ("category", "checkpoint"), ("_low", "_high")
"""Columns of tables of models other than metrics, and the suffixes of columns with interval ends."""
LABEL_ARGUMENTS = ("label", "label_rank")
"""Arguments that are not available without labels."""
RESAMPLES = 200
"""Number of resamples of clusters for the interval of a single number. Each of them calls the function again."""
ENOUGH = 0.95
"""Minimum proportion of resamples for which the function must return a number, for an interval."""


class Answer(NamedTuple):
    """Result of a function for one cell."""

    value: float
    """The number for the whole cell, or the mean over its images. NaN if the result was read from the database."""
    per_image: bool
    """Whether the function returned a value for every image."""
    numbers: Floats
    """Values of the images, (n,). For a single number, its values in resamples of clusters, (RESAMPLES,), or an empty
    array if there are too few clusters."""


def read_measures(tables: Mapping[str, Any], folder: Path) -> list[OwnMeasure]:
    """Import the custom metrics of a study.

    Args:
        tables: Table [measures] of the study: name -> file, files, version, function, unit and parameter values.
        folder: Folder of the study. The `file` of a metric is relative to it.

    Raises:
        UsageError: If a table, or the function that it names, does not define a metric.
    """
    return [_read_measure(name, table, folder) for name, table in tables.items()]


def _read_measure(name: str, table: Any, folder: Path) -> OwnMeasure:
    if not isinstance(table, Mapping) or not ("file" in table or callable(table.get("function"))):
        raise UsageError(f'measure {name} must be a table with a file, such as {name} = {{ file = "{name}.py" }}')
    for why, fault in (
        ("a built-in measure has that name", name in MEASURES),
        ("a name has letters, digits and _ alone", not name.isidentifier()),
        ("tables of models have a column of that name", name in COLUMNS or name.endswith(INTERVAL_ENDS)),
    ):
        if fault:
            raise UsageError(f"measure {name}: {why}, so give yours another")
    function = user_function(f"measure {name}", name, table, folder, "predicted", StoreError)
    defaults = settings_of(function.parameters, RESERVED, table, function)
    arguments = tuple(parameter for parameter in function.parameters if parameter in RESERVED)
    settings = {key: value for key, value in table.items() if key not in (*TABLE_KEYS, "unit")}
    for key in settings:
        if key not in defaults:
            raise UnknownName(f"parameter of measure {name}", key, defaults, f"see {function.name}{function.place}")
    for key, default in defaults.items():
        if key not in settings and not default:
            near = did_you_mean(key, RESERVED)
            raise UsageError(
                f"measure {name}: {key} has no default{near}; give it a value in the study, or the name of what is "
                f"given: {', '.join(RESERVED)}"
            )
    unit = table.get("unit", "")
    if not isinstance(unit, str):
        raise UsageError(f"measure {name}: unit must be text, such as share, not {unit!r}")
    return OwnMeasure(name, function.title or name.replace("_", " "), unit, function, arguments, settings)


@dataclass
class OwnMeasure:
    """A custom metric. `grid_measure` and `condition_measure` define it in the same form as built-in metrics."""

    name: str
    title: str
    unit: str
    function: UserFunction
    arguments: tuple[str, ...]
    """Names in RESERVED that the function takes."""
    settings: Mapping[str, Any]
    answers: dict[int, Answer | str] = field(default_factory=dict, repr=False)
    """Results, or error messages, by cell (cell.id). They are cached because every condition is compared with the clean
    images, and because `compare` pairs them with the results of another run."""

    @property
    def digest(self) -> str:
        """Digest that identifies the results: the files, the function and its parameter values."""
        return digest_of(self.function.code.digest, self.function.name, dict(self.settings))

    @property
    def condition_measure(self) -> Measure[CellOutcomes]:
        display = Display(self.title, self.unit, folded=False)
        return Measure(self.name, display, estimates=self.estimates, needs=self.needs)

    @property
    def grid_measure(self) -> Measure[Outcomes]:
        """The metric on the clean images, which `correlate` relates to generalization."""
        display = Display(self.title, self.unit)
        return Measure(self.name, display, estimates=self.clean_estimates, needs=self.needs, is_bias=True)

    def needs(self, available: Available) -> str | None:
        """Return which required arguments are not available for an image set, or None if all are."""
        lacking = [name for name in self.arguments if name in LABEL_ARGUMENTS and not available.labelled]
        return f"it takes {' and '.join(lacking)}, and the images have no labels" if lacking else None

    def clean_estimates(self, outcomes: Outcomes) -> dict[str, Estimate]:
        clean = outcomes.clean
        return {} if clean is None else self.estimates(clean)

    def estimates(self, cell: CellOutcomes) -> dict[str, Estimate]:
        """Compute the estimate for one cell, with its difference from the clean images."""
        answer, clean = self._answer(cell), None if cell.is_clean else cell.unperturbed()
        if isinstance(answer, str):
            return {self.name: nothing(State.FAILED, answer)}
        clean_answer = self._answer(clean) if clean else None
        compared = None if isinstance(clean_answer, str) else clean_answer
        return {self.name: _estimate(answer, compared, cell)}

    def _answer(self, cell: CellOutcomes) -> Answer | str:
        number = cell.decisions.cell
        if number not in self.answers:
            self.answers[number] = self._ask(cell)
        return self.answers[number]

    def _ask(self, cell: CellOutcomes) -> Answer | str:
        arrays = _arrays(cell, self.arguments)
        for name in ("confidence", "label_rank"):
            if name in arrays and arrays[name] is None:
                return f"measure {self.name} takes {name}, which is not known of all predictions"
        if "right" in self.arguments and cell.hits is None:
            return f"measure {self.name} takes right, and there is no clean prediction to agree with"
        try:
            with self.function.at_work():
                return self._call(arrays, cell.images)
        except BandlensError as error:
            show_stack(error)
            return str(error)

    def _call(self, arrays: Mapping[str, Any], images: ImageTruth) -> Answer:
        """Call the function for a cell and, if it returns a single number, for resamples of the clusters.

        Raises StoreError if the result is neither a finite number nor one finite number per image.
        """
        heading, count = self.function.heading, len(images)
        result = self.function(**_arguments(arrays, self.settings, np.arange(count)))
        try:
            numbers = np.asarray(result)
        except Exception as error:
            raise StoreError(f"{heading} returned {type(result).__name__}; expected a number, or {count}") from error
        if numbers.dtype.kind not in "fiub":
            raise StoreError(f"{heading} returned {numbers.dtype} values; expected numbers")
        if numbers.shape not in ((), (count,)):
            raise StoreError(
                f"{heading} returned an array of shape {numbers.shape}; expected a number, or shape ({count},)"
            )
        if not np.isfinite(numbers).all():
            raise StoreError(f"{heading} returned {numbers if numbers.ndim == 0 else 'NaN or an infinite number'}")
        if numbers.ndim:
            values = numbers.astype(np.float64)
            return Answer(float(values.mean()), True, values)
        return Answer(float(numbers), False, self._resampled(arrays, images))

    def _resampled(self, arrays: Mapping[str, Any], images: ImageTruth) -> Floats:
        """Return the numbers for resampled clusters, (RESAMPLES,), with NaN where the function fails.

        The array is empty if there are too few clusters.
        """
        if images.independent < FEWEST_CLUSTERS:
            return np.zeros(0)
        order, sizes = np.argsort(images.cluster_ids, kind="stable"), np.bincount(images.cluster_ids)
        members = np.split(order, np.cumsum(sizes)[:-1])
        rng, numbers = np.random.default_rng(0), np.full(RESAMPLES, np.nan)
        for row in range(RESAMPLES):
            index = np.concatenate([members[cluster] for cluster in rng.integers(len(sizes), size=len(sizes))])
            with suppress(Exception):  # a resample may lack something that the function needs, such as a class
                numbers[row] = self.function(**_arguments(arrays, self.settings, index))
        return np.where(np.isfinite(numbers), numbers, np.nan)


def _arguments(arrays: Mapping[str, Any], settings: Mapping[str, Any], rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return copies of the selected rows and of all other arguments, because the function may modify them."""
    chosen = {name: value[rows] for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return chosen | {name: private_copy(value) for name, value in {**arrays, **settings}.items() if name not in chosen}


def _arrays(cell: CellOutcomes, names: Sequence[str]) -> dict[str, Any]:
    """Return the arrays and class names that a function takes."""
    decisions, rank = cell.decisions, cell.decisions.known_rank
    arrays = {
        "predicted": decisions.predicted.astype(np.int64),
        "label": cell.images.label,
        "right": cell.hits,
        "label_rank": None if rank is None else rank.astype(np.int64),
        "confidence": decisions.confidence,
        "cluster": cell.images.clusters,
        "class_names": dict(cell.class_names),
    }
    return {name: arrays[name] for name in names}


def answer_table(measure: OwnMeasure) -> pl.DataFrame:
    """Return the results of a metric with the columns of the table own_answer, except the study."""
    rows = [
        (measure.name, cell, answer.per_image, answer.numbers.tolist())
        for cell, answer in measure.answers.items()
        if isinstance(answer, Answer)
    ]
    schema: dict[str, Any] = {
        "metric": pl.String,
        "cell": pl.Int32,
        "per_image": pl.Boolean,
        "numbers": pl.List(pl.Float64),
    }
    return pl.DataFrame(rows, schema, orient="row")


def read_answers(store: Store, study: int, cells: Sequence[int]) -> dict[tuple[str, int], Answer]:
    """Read stored results of custom metrics in a study (study.id) for cells (cell.id), by metric and cell."""
    rows = store.frame(
        "SELECT metric, cell, per_image, numbers FROM own_answer WHERE study = ? AND list_contains(?, cell)",
        [study, list(cells)],
    )
    return {
        (metric, cell): Answer(np.nan, per_image, np.array(numbers)) for metric, cell, per_image, numbers in rows.rows()
    }


def paired_interval(a: Answer, b: Answer, clusters: Ints) -> Ends | None:
    """Compute the 95% confidence interval of B - A, paired over the same images, or None if there is none.

    Means use the interval of `statistics.proportions`. Single numbers use percentiles of the differences in the same
    resamples.

    Args:
        a: Result of A.
        b: Result of B.
        clusters: Clusters of the images, (n,).
    """
    if a.per_image != b.per_image or len(a.numbers) != len(b.numbers):
        return None
    if a.per_image:
        minimum, span = _range_of(a.numbers, b.numbers)
        ends = difference_interval(*(share_of((part.numbers - minimum) / span, clusters) for part in (a, b)))
        return None if ends is None else (span * ends[0], span * ends[1])
    # Both results used the same resamples, because these depend only on the clusters and a fixed seed.
    low, high = _percentiles(b.numbers - a.numbers)
    return None if np.isnan(low) else (low, high)


def _estimate(answer: Answer, clean: Answer | None, cell: CellOutcomes) -> Estimate:
    clusters = cell.images.clusters
    estimate = _mean_estimate(answer.numbers, clusters) if answer.per_image else _number_estimate(answer, cell)
    if clean is None or answer.per_image != clean.per_image:
        return estimate
    ends = paired_interval(clean, answer, clusters) or (np.nan, np.nan)
    return replace(estimate, difference=(estimate.value - clean.value, *ends))


def _number_estimate(answer: Answer, cell: CellOutcomes) -> Estimate:
    count = len(cell.images)
    low, high = _percentiles(answer.numbers)
    if np.isnan(low):
        note = too_few_images(cell.images.independent)
        if len(answer.numbers):
            note = "too many resamples of the images have no number for an interval"
        return Estimate(answer.value, state=State.NO_INTERVAL, note=note, n=count)
    return Estimate(answer.value, low, high, n=count)


def _mean_estimate(values: Floats, clusters: Ints) -> Estimate:
    minimum, span = _range_of(values)
    mean = estimate_of(share_of((values - minimum) / span, clusters)).times(span)
    return replace(mean, value=mean.value + minimum, low=mean.low + minimum, high=mean.high + minimum)


def _range_of(*values: Floats) -> tuple[float, float]:
    """Return the lower end and the width of a range that contains 0, 1 and all values.

    Values are scaled to [0, 1] by this range, because intervals are computed for means of numbers in [0, 1].
    """
    minimum = min(0.0, *(float(numbers.min()) for numbers in values))
    return minimum, max(1.0, *(float(numbers.max()) for numbers in values)) - minimum


def _percentiles(numbers: Floats) -> Ends:
    defined = numbers[~np.isnan(numbers)]
    return interval(defined) if len(numbers) and len(defined) >= ENOUGH * len(numbers) else (np.nan, np.nan)
