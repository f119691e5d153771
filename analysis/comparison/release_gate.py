"""Release gate: test whether a candidate model is no worse than the baseline release before it.

The loss is the mean of d_i, the deterioration on image i. For accuracy, d_i is 1 if only the baseline is correct (a
negative flip), -1 if only the candidate is correct, and 0 otherwise. The confidence interval and the one-sided p-values
of the loss are described in `paired`. The proportion of negative flips has the interval of `wilson`. Relative negative
flips are the proportion divided by the one expected if errors were independent (Yan et al. 2021):

    relative flips = negative flips / ((1 - baseline error) * candidate error)

Each row has two tests, with the margin M of the loss, or the limit L of negative flips:

    p_pass   null hypothesis: the loss is at least M, or the proportion of negative flips at least L. Rejected: pass
    p_fail   null hypothesis: the loss is at most 0, or the proportion of negative flips at most L.   Rejected: fail

Holm's correction is applied over all rows, with alpha = 0.025 for each of the two tests. The probability that a table
contains any wrong verdict is therefore at most 5%. A wrong verdict is a failure without a loss, or a pass with a loss
of M or more. A loss that is significantly below M passes even if it is above 0. For an undecided row, `needed` is the
number of images that would decide it at the level 0.025 / rows. Cells that are identical in both runs pass without a
test.

Without labels, a prediction is correct if it equals the clean prediction of the same release. Clean predictions are
correct if they equal those of the baseline. Otherwise, a candidate that predicts one class for every image would show
no loss.

The worst loss is the one whose confidence interval has the highest lower end. Because it is selected among all rows,
its interval uses a higher level: the two-sided normal level of the 95th percentile of the largest |T| over all rows
(multiplier bootstrap, Chernozhukov, Chetverikov & Kato 2013):

    T = sum_u g_u (D_u - n_u d) / (n * standard error),   g_u ~ N(0, 1) per cluster,   D_u = sum of d over n_u images
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import scipy

from ...core.errors import UnknownName, UsageError, plural, some_of
from ...core.records import in_words as parameters_in_words
from ..metrics.base import Measure
from ..metrics.predictions import CellOutcomes, Outcomes
from ..metrics.registry import CONDITION_MEASURES
from ..statistics import ALPHA, Floats, Ints, Mask
from ..statistics.coefficients import holm
from ..statistics.paired import PairedDifference, paired_difference, sums_by_cluster
from ..statistics.wilson import NO_SPREAD, SampledShare
from .cell_pairs import CYCLES, DIFFERS_IN, MATCH, Run, match_cells, read_cells
from .gates import FLIPS, NOTE_OF_CLEAN, NOTE_OF_SAME, ROWS, Gated, Limits, in_words, name_limit
from .metric_pairs import Side, by_condition, read_sides
from .paired_outcomes import NO_CLEAN_PREDICTION, NO_COMMON_IMAGE, ONE_IS_LABELED, read_paired_outcomes
from .precision_gate import flip_share, two_digits

LEVEL = ALPHA / 2
"""Probability of any wrong pass in a table, and probability of any wrong failure."""
DRAWS = 2000
"""Number of bootstrap draws of the largest |T|."""
BLOCK_NUMBERS = 4_000_000
"""Maximum number of elements in an array of bootstrap weights, which limits memory."""
MEASURES: Mapping[str, Measure[CellOutcomes]] = {
    measure.name: measure for measure in CONDITION_MEASURES if measure.display.sense and measure.values
}
"""Name -> metric that a release gate can compare."""


Slice = tuple[str, Ints]
"""Name of a slice and the indices of its images. The name of the slice of all images is empty."""


def _classes(outcomes: Outcomes) -> Iterator[Slice]:
    """Yield a slice for each class of the labels, named after the class if its name is known."""
    label, names = outcomes.images.label, next(iter(outcomes.cells.values())).class_names
    for number in np.unique(label[label >= 0]).tolist():
        yield f"class {names.get(number, number)}", np.flatnonzero(label == number)


def _attributes(outcomes: Outcomes) -> Iterator[Slice]:
    """Yield a slice for each value of each attribute of the images."""
    for (name, value), images in outcomes.images.slices.items():
        yield f"{name}={value}", images


REFUSALS = {
    NO_COMMON_IMAGE: "no image in common; pack both sets with the same paths",
    ONE_IS_LABELED: "only one of the two has labels; pack both sets with labels",
    NO_CLEAN_PREDICTION: "neither labels nor a clean prediction to agree with; add clean images",
}
"""Reason why a pair of cells cannot be compared -> error message.

SELF_REFERENCE is absent: clean images without labels are compared with the clean predictions of the baseline."""
SLICES: Mapping[str, Callable[[Outcomes], Iterator[Slice]]] = {"class": _classes, "attribute": _attributes}
"""Kind of slices -> function that yields the slices of an image set."""


STATISTICS = ("gained", "lost", "images", "unseen", "freedom")
"""Columns of a `PairedDifference` for a loss. `images` and `unseen` also describe the proportion of negative flips."""
SCHEMA = ROWS | dict.fromkeys(STATISTICS, pl.Float64)
"""Columns of the rows, and the statistics that their verdicts are computed from."""
Contributions = tuple[Ints, Floats]
"""Clusters, ascending, and the contribution of each to T per unit weight, (clusters, conditions)."""


@dataclass(frozen=True, slots=True)
class ReleasePair:
    """Predictions of two releases of a model for the same images under the same conditions."""

    conditions: pl.DataFrame
    """Columns that identify the conditions, one row each."""
    hits: tuple[Mask, Mask]
    """Whether the predictions of the baseline and of the candidate are correct, (conditions, n) each."""
    values: Mapping[str, tuple[Floats, Floats]]
    """Metric -> per-image values of the baseline and the candidate, (conditions, n) each. NaN for excluded images."""
    clusters: Ints
    """Clusters, (n,). Images with the same number are not independent."""

    def judge(self, slices: Iterable[Slice], limits: Limits) -> tuple[pl.DataFrame, list[Contributions]]:
        """Compute the rows of slices before correction by `decide`, and the contributions to their T statistics."""
        rows, contributions = [pl.DataFrame(schema=SCHEMA)], list[Contributions]()
        flip_mask, limit = self.hits[0] & ~self.hits[1], limits.negative_flips
        for name, images in slices:
            flips, share_a, share_b = (mask[:, images].mean(axis=1) for mask in (flip_mask, *self.hits))
            relative = relative_flips(flips, 1 - share_a, 1 - share_b)
            slice_columns = {"slice": name, "flips": flips, "relative_flips": relative}
            for measure, values in self.values.items():
                places = images[~np.isnan(values[0][:, images] + values[1][:, images]).any(axis=0)]
                if not len(places):
                    continue
                values_a, values_b = (numbers[:, places] for numbers in values)
                d = MEASURES[measure].display.sense * (values_a - values_b)
                loss, (sums, sizes, clusters) = d.mean(axis=1), sums_by_cluster(d, self.clusters[places])
                compared = paired_difference(d.sum(axis=1), np.square(d).sum(axis=1), sums, sizes)
                low, high = compared.ends()
                block = {"measure": measure, "n": len(places), "margin": float(limits.margin)}
                block |= {"before": values_a.mean(axis=1), "now": values_b.mean(axis=1), "loss": loss}
                block |= {"loss_low": low, "loss_high": high}
                block |= {"p_pass": compared.p_below(limits.margin), "p_fail": compared.p_above(0)}
                block |= {name: getattr(compared, name) for name in STATISTICS}
                rows.append(self._block(slice_columns | block))
                # Rows in which all images have the same difference have no T statistic. An infinite error makes it 0.
                error = np.where(compared.error > NO_SPREAD, compared.error, np.inf)
                influences = (sums - sizes * loss[:, None]) / d.shape[1] / error[:, None]
                order = np.argsort(clusters)
                contributions.append((clusters[order], influences.T[order].astype(np.float32)))
            if limit is not None:
                sampled = flip_share(flip_mask[:, images], self.clusters[images])
                low, high = sampled.ends()
                block = {"measure": FLIPS, "n": len(images), "margin": limit, "before": share_a, "now": share_b}
                block |= {"loss": flips, "loss_low": low, "loss_high": high}
                block |= {"p_pass": sampled.p_below(limit), "p_fail": sampled.p_above(limit)}
                block |= {"images": sampled.effective, "unseen": sampled.unseen}
                rows.append(self._block(slice_columns | block))
        return pl.concat(rows, how="diagonal"), contributions

    def _block(self, columns: Mapping[str, Any]) -> pl.DataFrame:
        """Return a row for each condition, with columns that have a value for each row or a single value."""
        shape = len(self.conditions)
        return self.conditions.with_columns(
            pl.Series(name, np.broadcast_to(values, shape), nan_to_null=True) for name, values in columns.items()
        )


def draw_largest(contributions: Sequence[Contributions], clusters: Ints, seed: int) -> Floats:
    """Draw the largest |T| over all rows, (DRAWS,). In each draw, a cluster has the same weight in all rows.

    Args:
        contributions: Clusters and contributions of the rows.
        clusters: Cluster of each image, (n,).
        seed: Seed of the draws.
    """
    ids, maxima = np.unique(clusters), np.zeros(DRAWS)
    random, size = np.random.default_rng(seed), max(1, BLOCK_NUMBERS // len(ids))
    # Draw in blocks to limit memory. `block` is a view, so that the maximum is updated in place in `maxima`.
    for first in range(0, DRAWS, size):
        block = maxima[first : first + size]
        weights = random.standard_normal((len(block), len(ids)), np.float32)
        for some_ids, per_cluster in contributions:
            has_all = len(some_ids) == len(ids)
            statistics = (weights if has_all else weights[:, np.searchsorted(ids, some_ids)]) @ per_cluster
            np.maximum(block, np.abs(statistics).max(axis=1, initial=0), out=block)
    return maxima


def relative_flips(flips: Floats, error_before: Floats, error_now: Floats) -> Floats:
    """Divide negative flips by the proportion expected for independent errors. NaN if none are expected."""
    expected = np.asarray((1 - error_before) * error_now)
    return np.divide(flips, expected, out=np.full_like(expected, np.nan), where=expected > 0)


def decide(rows: pl.DataFrame) -> pl.DataFrame:
    """Correct the p-values over all rows of a table, and add the verdicts and the number of images needed."""
    p_pass, p_fail, n, loss, margin = _numbers(rows, "p_pass", "p_fail", "n", "loss", "margin")
    p_pass, p_fail, difference = holm(p_pass), holm(p_fail), PairedDifference(*_numbers(rows, *STATISTICS))
    quantile = float(scipy.special.ndtri(1 - LEVEL / max(1, len(rows))))
    to_pass = np.where(loss < margin, difference.growth(margin, quantile), np.inf)
    to_fail = np.where(loss > 0, difference.growth(np.zeros_like(margin), quantile), np.inf)
    flips = SampledShare(loss, difference.images, difference.unseen).growth(margin, quantile)
    counts = np.where(rows["measure"] == FLIPS, flips, np.fmin(to_pass, to_fail))
    counts = np.maximum(counts * n, n + 1)
    table = rows.with_columns(
        p_pass=pl.Series(p_pass, nan_to_null=True), p_fail=pl.Series(p_fail, nan_to_null=True)
    ).with_columns(verdict=in_words(pl.col("p_pass") <= LEVEL, pl.col("p_fail") <= LEVEL))
    return table.with_columns(needed=pl.when(pl.col("verdict") == "undecided").then(two_digits(counts)))


def _numbers(rows: pl.DataFrame, *names: str) -> Floats:
    """Return columns as an array (names, rows), with NaN for null."""
    return rows.select(pl.col(names).cast(pl.Float64).fill_null(np.nan)).to_numpy().T


def worst_loss(rows: pl.DataFrame, maxima: Floats) -> dict[str, Any] | None:
    """Return the row with the worst loss and an interval that is corrected for its selection, or None.

    Args:
        rows: Rows of the table.
        maxima: Largest |T| of the table in each draw, (DRAWS,).
    """
    candidates = rows.filter(pl.col("gained").is_not_null(), pl.col("loss_low").is_not_null())
    if candidates.is_empty():
        return None
    alpha = min(ALPHA, 2 * float(scipy.special.ndtr(-np.quantile(maxima, 1 - ALPHA))))
    low, high = PairedDifference(*_numbers(candidates, *STATISTICS)).ends(alpha)
    row = int(np.argmax(low))
    return candidates.select(*ROWS).row(row, named=True) | {"loss_low": float(low[row]), "loss_high": float(high[row])}


def gate_release(a: Run, b: Run, limits: Limits, advance: Callable[[float], None] = lambda _: None) -> Gated:
    """Test the cells of the candidate against the matching cells of the baseline.

    Args:
        a: Baseline, the release before.
        b: Candidate.
        limits: Margin, limit of negative flips, metrics, conditions and slices.
        advance: Called with the number of completed cells.

    Raises:
        UsageError: If both runs are the same, have no cell in common, or lack something that `limits` names.
    """
    check_names(limits)
    label = f"{b.name_beside(a)} against {a.name_beside(b)}"
    if a.is_same_as(b):
        raise UsageError(
            f"{b.name} would be compared with itself; name the release before it: --against NAME@VERSION, or judge a "
            "precision: bandlens gate precision STUDY.toml --candidate ENGINE:PRECISION"
        )
    cells_a, cells_b = (_select_cells(run, limits) for run in (a, b))
    pairs = match_cells(a, b, cells_a, cells_b)
    sides = ((a.name_beside(b), cells_a, cells_b), (b.name_beside(a), cells_b, cells_a))
    lacking = [words for side in sides if (words := _rest_in_words(*side))]
    if pairs.is_empty():
        rest = "; ".join(lacking) or "neither has any"
        raise UsageError(f"{label}: no cell in common: {rest}; run both on the same sets")
    side_a, side_b = read_sides(a, b)
    differing_cells = pairs.filter(~pl.col("same"))
    frames, maxima, kinds = [pl.DataFrame(schema=SCHEMA)], np.zeros(DRAWS), set[str]()
    for (checkpoint, image_set), group in differing_cells.group_by("checkpoint", "image_set", maintain_order=True):
        pair, slices_by_kind = _read_pair(side_a, side_b, group, limits, (str(checkpoint), str(image_set)))
        kinds |= {kind for kind, slices in slices_by_kind.items() if slices}
        all_slices = [*chain.from_iterable(slices_by_kind.values())]
        # Images of a single cluster give no interval, so that their rows could never be decided.
        slices = [(name, images) for name, images in all_slices if not name or np.ptp(pair.clusters[images])]
        if small := len(all_slices) - len(slices):
            lacking.append(f"{plural(small, 'slice')} of {image_set} of a single image or cluster")
        pair_rows, contributions = pair.judge(slices, limits)
        frames.append(pair_rows)
        # The seed depends on the image set, so that all checkpoints on the same images share the same draws.
        np.maximum(maxima, draw_largest(contributions, pair.clusters, int(group["digest"][0][:8], 16)), out=maxima)
        for (name, *_), column in zip(sides, ("n", "n_b"), strict=True):
            if unmatched := group[column][0] - len(pair.clusters):
                lacking.append(f"{plural(unmatched, 'image')} of {image_set} of {name} alone")
        advance(len(group))
    rows = decide(pl.concat(frames, how="diagonal"))
    if absences := [name for name in limits.measures if len(differing_cells) and name not in rows["measure"]]:
        raise UsageError(
            f"{label}: no image has a number of {', '.join(absences)}; leave it out of {name_limit('measures')}"
        )
    if absences := [kind for kind in limits.slices if len(differing_cells) and kind not in kinds]:
        raise UsageError(
            f"{label}: no image has a known {' or '.join(absences)}; leave it out of {name_limit('slices')}"
        )
    flips = "" if limits.negative_flips is None else f", negative flips up to {limits.negative_flips:.2%}"
    rule = f"margin {limits.margin:.2%}{flips}; chance of any wrong verdict in the table at most 5 %"
    table = pl.concat([rows.select(*ROWS), _same_rows(pairs.filter("same"), limits)], how="diagonal_relaxed")
    return Gated(label, table, rule, worst=worst_loss(rows, maxima), lacking="; ".join(dict.fromkeys(lacking)))


def _same_rows(cells: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Return the rows of identical cells, which pass because their loss is 0 in every metric."""
    words = {"slice": "", "measure": "predictions", "verdict": "pass", "note": NOTE_OF_SAME}
    constants = (
        dict.fromkeys(("loss", "loss_low", "loss_high", "flips"), 0.0) | {"margin": float(limits.margin)} | words
    )
    return cells.select(
        *MATCH, CYCLES, "n", cell="cell_b", **{name: pl.lit(value) for name, value in constants.items()}
    )


def check_names(limits: Limits) -> None:
    """Raise UnknownName for a metric or kind of slices that a release gate does not support."""
    check_known("measures", limits.measures, MEASURES)
    check_known("slices", limits.slices, SLICES)


def check_known(key: str, names: Iterable[str], choices: Collection[str]) -> None:
    """Raise UnknownName for a name in a key of [gate] that is not among `choices`."""
    for name in names:
        if name not in choices:
            raise UnknownName(f"name in {name_limit(key)}", name, choices)


def _select_cells(run: Run, limits: Limits) -> pl.DataFrame:
    """Read the cells of the selected conditions. Raises UnknownName for a condition that the run does not have."""
    cells = read_cells(run)
    check_known("conditions", limits.conditions, cells["probe"].unique(maintain_order=True).to_list())
    return cells.filter(pl.col("probe").is_in([*limits.conditions])) if limits.conditions else cells


def _rest_in_words(name: str, cells: pl.DataFrame, counterparts: pl.DataFrame) -> str:
    """Describe how many cells only one run has, and which checkpoints, image sets, probes or parameters they have."""
    remainder, words = cells.join(counterparts, on=MATCH, how="anti", maintain_order="left"), []
    partly = remainder
    for column in MATCH[:3]:
        values = remainder.join(counterparts, on=column, how="anti", maintain_order="left")[column].unique(
            maintain_order=True
        )
        if len(values):
            words.append(f"{column.replace('_', ' ')} {some_of(values)}")
            partly = partly.filter(~pl.col(column).is_in(values.implode()))
    if len(partly):
        settings = partly.select("probe", "parameters").unique(maintain_order=True).rows()
        words += [some_of(f"{probe} {parameters_in_words(json.loads(text).items())}" for probe, text in settings)]
    return f"{plural(len(remainder), 'cell')} of {name} alone ({', '.join(words)})" if len(remainder) else ""


def _read_pair(
    side_a: Side, side_b: Side, cells: pl.DataFrame, limits: Limits, key: tuple[str, str]
) -> tuple[ReleasePair, dict[str, list[Slice]]]:
    """Read cells of one checkpoint and image set on the images that both runs have, and the slices of these images.

    The slices are returned by kind. The slice of all images has an empty name and an empty kind.
    """
    paired = read_paired_outcomes(side_a.predictions, side_b.predictions, cells)
    for reason in paired.reason.unique():
        if reason in REFUSALS:
            raise UsageError(f"{' on '.join(key)}: {REFUSALS[reason]}")
    outcomes_a, outcomes_b = (side.predictions.outcomes(side.subjects[key]) for side in (side_a, side_b))
    settings = cells.select("probe", "parameters").rows()
    cells_a, cells_b = (
        [by_condition(outcomes)[setting] for setting in settings] for outcomes in (outcomes_a, outcomes_b)
    )
    names = limits.measures or [name for name, measure in MEASURES.items() if measure.display.primary]
    hits, values = (paired.correct_a, paired.correct_b), dict[str, tuple[Floats, Floats]]()
    for name in names:
        measure = MEASURES[name]
        if measure.applies(outcomes_a.available) and measure.applies(outcomes_b.available):
            # Use the correctness from `paired` for the main accuracy, because the reference of clean images without
            # labels differs there.
            values[name] = (
                (hits[0].astype(np.float64), hits[1].astype(np.float64))
                if measure.display.primary
                else (
                    np.stack([_values(measure, cell)[paired.images_a] for cell in cells_a]),
                    np.stack([_values(measure, cell)[paired.images_b] for cell in cells_b]),
                )
            )
    conditions = cells.select(
        *MATCH, CYCLES, differs_in=DIFFERS_IN, cell="cell_b", note=pl.when("itself").then(pl.lit(NOTE_OF_CLEAN))
    )
    for side in (side_a, side_b):
        side.predictions.forget()
    slices: dict[str, list[Slice]] = {"": [("", np.arange(len(paired.clusters)))]}
    for kind in limits.slices:
        # Prefer B: attributes may have been added to the image set after the baseline was run.
        slices[kind] = _common_slices(kind, outcomes_b, paired.images_b) or _common_slices(
            kind, outcomes_a, paired.images_a
        )
    return ReleasePair(conditions, hits, values, paired.clusters), slices


def _common_slices(kind: str, outcomes: Outcomes, common: Ints) -> list[Slice]:
    """Return the slices of a kind, as positions among the common images."""
    places = ((name, np.flatnonzero(np.isin(common, images))) for name, images in SLICES[kind](outcomes))
    return [(name, images) for name, images in places if len(images)]


def _values(measure: Measure[CellOutcomes], cell: CellOutcomes) -> Floats:
    """Return the per-image values of a metric, (n,). NaN for images without a value."""
    numbers = measure.values(cell) if measure.values else None
    if numbers is None:
        return np.full(len(cell.images), np.nan)
    mask = np.ones(len(numbers.values), bool) if numbers.mask is None else numbers.mask
    return np.asarray(np.where(mask, numbers.values, np.nan))
