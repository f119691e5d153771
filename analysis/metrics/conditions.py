"""Metrics of every condition that a study ran: whatever the probe, a metric is a function of one cell's decisions.

    accuracy, agreement      share of images that are right by their label; without labels, predicted as when clean
    accuracy_real            the same by the lists of ReaL
    shape_bias, cue_accuracy see `shape_bias`; where shape and texture conflict
    confidence               mean probability of the predicted class, where probabilities are known
    expected_calibration_error, top1_brier_score   see `calibration`; likewise, and not where cues conflict
    clean_error_consistency  kappa of right and wrong with that when clean: see `statistics.consistency`
    model_error_consistency  the mean of that with each of the study's other checkpoints under the same condition

All but these two are means over images, so that each has the interval of `statistics.shares`, and so has its difference
from the clean cell: the same images are judged in both. The last is such a mean to first order, which serves as well.
Means over benchmarks, in percent, are those of `generalization`, with the perturbed images in place of the clean ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...protocol import CUES, SHAPE_CUES, Cues
from ..database.store import Store
from ..statistics.arrays import Floats, Mask, Whole
from ..statistics.consistency import consistency_with_others, error_consistency
from ..statistics.shares import Share, difference_interval, mean_interval, share_interval, share_of
from .calibration import NEAR_CHANCE, calibration_gaps
from .compute import KEYS, Subject, subjects
from .generalization import Measured, measure_perturbed, read_perturbed
from .shape_bias import Decisions, shape_shares
from .states import State

SCHEMA = {
    **{name: pl.Int32 if name.endswith("_id") else pl.String for name in KEYS},
    "condition_id": pl.Int32,
    **dict.fromkeys(("probe", "parameters", "metric"), pl.String),
    "n": pl.Int64,
    **dict.fromkeys(("value", "low", "high", "difference", "difference_low", "difference_high"), pl.Float64),
    **dict.fromkeys(("state", "note"), pl.String),
}
CELLS = """
SELECT detail.cell, condition AS condition_id, probe, parameters::VARCHAR AS parameters, clean_cell
FROM study_cell JOIN cell_detail AS detail USING (cell) JOIN cell ON cell.id = detail.cell
WHERE study_cell.study = ? AND checkpoint_id = ? AND image_set_id = ?
ORDER BY probe <> 'clean', probe, cutoff, frequency NULLS FIRST, noise_sd, parameters
"""
BESIDE = """
SELECT list(detail.cell ORDER BY detail.cell) AS cells, list(checkpoint_id ORDER BY detail.cell) AS checkpoints,
       condition AS condition_id, detail.probe, detail.parameters::VARCHAR AS parameters
FROM study_cell JOIN cell_detail AS detail USING (cell) JOIN cell ON cell.id = detail.cell
WHERE study_cell.study = ? AND image_set_id = ?
GROUP BY condition, detail.probe, detail.parameters HAVING count(*) > 1 ORDER BY detail.probe <> 'clean', condition
"""
CONDITION = ("condition_id", "probe", "parameters")


def compute_conditions(
    store: Store, study: str, resamples: int = 1000, advance: Callable[[float], None] = lambda _: None
) -> pl.DataFrame:
    """Compute the metrics of every condition of a study (name, name@version or `*`) and keep them in the database.

    Args:
        store: open for writing.
        study: `*` stands for the newest version of every study.
        resamples: of the images, for the intervals of error consistencies.
        advance: called once a checkpoint and image set.

    Returns:
        The columns of SCHEMA, one row a checkpoint, image set, condition and metric. Means over benchmarks have no
        image set. `difference` is the value less that of the clean images.
    """
    rows: list[dict[str, Any]] = []
    truths: dict[int, Truth] = {}
    for study_id, found_subjects in groupby(subjects(store, study), lambda one: one.study_id):
        of_study = list(found_subjects)
        perturbed = read_perturbed(store, study_id)
        for checkpoint_id, of_checkpoint in groupby(of_study, lambda one: one.checkpoint_id):
            for subject in of_checkpoint:
                if subject.image_set_id not in truths:
                    truths[subject.image_set_id] = read_truth(store, subject)
                about = {name: getattr(subject, name) for name in KEYS}
                rows += [about | row for row in _of_cells(store, subject, truths[subject.image_set_id], resamples)]
                advance(1)
            about = {name: getattr(subject, name) for name in KEYS[:4]}
            means = measure_perturbed(store, perturbed, checkpoint_id)
            rows += [about | row for row in _of_benchmarks(means)]
        for image_set_id, on_set in groupby(sorted(of_study, key=_image_set_id), _image_set_id):
            rows += _between(store, list(on_set), truths[image_set_id])
    found = pl.DataFrame(rows, SCHEMA)
    store.write_conditions(found.drop("study", "checkpoint", "image_set", "probe", "parameters"))
    return found


def _of_cells(store: Store, subject: Subject, truth: Truth, resamples: int) -> Iterator[dict[str, Any]]:
    """Rows of the columns from condition_id on, for the cells of one checkpoint on one image set."""
    cells = store.frame(CELLS, [subject.study_id, subject.checkpoint_id, subject.image_set_id])
    clean_cell = next(iter(cells["clean_cell"].drop_nulls()), None)
    clean = None if clean_cell is None else read_decided(store, clean_cell)
    before = {} if clean is None else shares_of(clean, truth, clean)
    for row in cells.rows(named=True):
        about = {name: row[name] for name in CONDITION}
        itself = row["cell"] == clean_cell
        decided = clean if clean and itself else read_decided(store, row["cell"])
        for metric, share in (before if itself else shares_of(decided, truth, clean)).items():
            found = _row(metric, share, None if itself or metric == "agreement" else before.get(metric))
            yield about | found | (_doubt(metric, share, decided, itself) if share else {})
        if truth.labelled and clean and not itself:
            yield about | _consistency(clean, decided, truth, resamples)


def _image_set_id(subject: Subject) -> int:
    return subject.image_set_id


def _between(store: Store, on_set: Sequence[Subject], truth: Truth) -> Iterator[dict[str, Any]]:
    """Whole rows of what each checkpoint has right and wrong with the others on one image set."""
    if not truth.labelled:
        return
    about = {one.checkpoint_id: {name: getattr(one, name) for name in KEYS} for one in on_set}
    before: dict[int, Share] = {}
    for row in store.frame(BESIDE, [on_set[0].study_id, on_set[0].image_set_id]).rows(named=True):
        right = store.frame(
            "SELECT label_rank = 0 AS right FROM prediction WHERE cell IN (SELECT unnest(?::INTEGER[])) "
            "ORDER BY cell, image_index",
            [row["cells"]],
        )
        judged = right["right"].to_numpy().reshape(len(row["cells"]), -1)[:, truth.judged]
        shares = [share_of(one, truth.clusters[truth.judged]) for one in consistency_with_others(judged)]
        if row["probe"] == "clean":
            before = dict(zip(row["checkpoints"], shares, strict=True))
        with_the_same = row["probe"] != "clean" and before.keys() == {*row["checkpoints"]}
        for checkpoint, share in zip(row["checkpoints"], shares, strict=True):
            clean = before[checkpoint] if with_the_same else None
            yield about[checkpoint] | {name: row[name] for name in CONDITION} | _mean_kappa(share, clean)


def _mean_kappa(share: Share, clean: Share | None) -> dict[str, Any]:
    metric = "model_error_consistency"
    if np.isnan(share.value):
        note = "all is right, or all wrong, for a model"
        return {"metric": metric, "n": share.images, "state": State.UNDETERMINED, "note": note}
    return _row(metric, share, None if clean is None or np.isnan(clean.value) else clean, mean_interval)


def _row(
    metric: str,
    share: Share | None,
    before: Share | None,
    interval: Callable[[Share], tuple[float, float]] = share_interval,
) -> dict[str, Any]:
    """The columns from metric on, of a share and of the one of the clean images, where there is one to compare with."""
    if share is None:
        return {"metric": metric, "n": 0, "state": State.UNDETERMINED, "note": "neither cue is ever named"}
    row: dict[str, Any] = {"metric": metric, "n": share.images, "value": share.value, "state": State.OK}
    if len(share.clusters) == 1:
        row |= {"state": State.NO_INTERVAL, "note": "1 independent image is too few for an interval"}
    else:
        row["low"], row["high"] = interval(share)
    if before is not None:
        row["difference"] = share.value - before.value
        row["difference_low"], row["difference_high"] = difference_interval(before, share) or (None, None)
    return row


def _doubt(metric: str, share: Share, decided: Decided, itself: bool) -> dict[str, Any]:
    """The columns that are otherwise for an agreement by definition, and for a calibration error that says little."""
    if metric == "agreement" and itself:
        return {"low": None, "high": None, "state": State.NO_INTERVAL, "note": "agrees with itself by definition"}
    if metric == "expected_calibration_error":
        chance = calibration_gaps(decided.confidence, decided.rank == 0)[1]
        if share.value < NEAR_CHANCE * chance:
            return {"state": State.DOUBTFUL, "note": f"{chance:.2g} is expected of a network that is calibrated"}
    return {}


def _consistency(clean: Decided, decided: Decided, truth: Truth, resamples: int) -> dict[str, Any]:
    of = truth.judged
    found = error_consistency(
        clean.rank[of] == 0, decided.rank[of] == 0, truth.clusters[of] if truth.clustered else None, resamples
    )
    row: dict[str, Any] = {"metric": "clean_error_consistency", "n": found.n, "state": State.OK}
    if np.isnan(found.kappa):
        return row | {"state": State.UNDETERMINED, "note": "all is right, or all wrong, under one of the two"}
    if np.isnan(found.low):
        note = "too few images are right, or wrong, for an interval"
        return row | {"value": found.kappa, "state": State.NO_INTERVAL, "note": note}
    return row | {"value": found.kappa, "low": found.low, "high": found.high}


def _of_benchmarks(means: Mapping[tuple[Any, ...], Mapping[str, Measured]]) -> Iterator[dict[str, Any]]:
    """Rows of the columns from condition_id on, in percent."""
    clean = next((of for condition, of in means.items() if condition[1] == "clean"), {})
    for condition, of in means.items():
        for metric, one in of.items():
            before = clean[metric].share if metric in clean and condition[1] != "clean" else None
            if one.share:
                row = _row(metric, one.share, before) | ({"state": one.state, "note": one.note} if one.note else {})
                numbers = {name: value and 100 * value for name, value in row.items() if isinstance(value, float)}
                yield dict(zip(CONDITION, condition, strict=True)) | row | numbers


def names_of(labelled: bool, schemes: Collection[str], checkpoints: int) -> list[str]:
    """Metrics of a perturbed condition, of images that have these label schemes and that so many checkpoints saw."""
    conflicting = next((cues for cues in CUES if cues.second in schemes), None)
    found = ["accuracy" if labelled else "agreement"]
    found += ["accuracy_real"] if "real" in schemes else []
    found += [conflicting.bias, conflicting.accuracy] if conflicting else []
    found += ["confidence"]
    if labelled:
        found += [] if conflicting else ["expected_calibration_error", "top1_brier_score"]
        found += ["clean_error_consistency"] + ["model_error_consistency"] * (checkpoints > 1)
    return found


# What is decided, and what counts as right


@dataclass(frozen=True, slots=True)
class Truth:
    """What counts as right for the n images of a set."""

    clusters: Whole
    """(n,)"""
    labelled: bool
    accepted: Whole
    """Images and the classes that ReaL accepts for them, as image * 65536 + class."""
    shape: Whole
    """(n,), -1 for none."""
    texture: Whole
    cues: Cues
    """Which cues these two are: see `shape_bias.Decisions`."""

    @property
    def clustered(self) -> bool:
        return len(np.unique(self.clusters)) < len(self.clusters)

    @property
    def conflicting(self) -> Mask:
        """(n,): whether shape and texture are of different classes."""
        return np.asarray((self.shape >= 0) & (self.texture >= 0) & (self.shape != self.texture))

    @property
    def judged(self) -> Mask:
        """(n,): the images on which errors are compared, all or those whose cues conflict."""
        return self.conflicting if self.conflicting.any() else np.ones(len(self.clusters), bool)


@dataclass(frozen=True, slots=True)
class Decided:
    """What one cell decides for the n images of a set."""

    predicted: Whole
    rank: Floats
    """Rank of the label: 0 is right. NaN without labels."""
    confidence: Floats
    """NaN where it is not known."""


def read_truth(store: Store, subject: Subject) -> Truth:
    """What counts as right for the images of a subject."""
    image_set = [subject.image_set_id]
    clusters = store.frame("SELECT cluster FROM image WHERE image_set = ? ORDER BY image_index", image_set)
    labels = store.frame(
        "SELECT scheme, image_index::BIGINT AS image_index, class::BIGINT AS class FROM label "
        "WHERE image_set = ? AND scheme <> 'single'",
        image_set,
    )

    def of(scheme: str) -> NDArray[np.int64]:
        return labels.filter(pl.col("scheme") == scheme).select("image_index", "class").to_numpy()

    there = set(labels["scheme"])
    which = next((cues for cues in CUES if cues.second in there), SHAPE_CUES)
    cues = {name: np.full(len(clusters), -1, np.int64) for name in (which.first, which.second)}
    for name, column in cues.items():
        index, named = of(name).T
        column[index] = named
    accepted = of("real") @ np.array([1 << 16, 1])
    own = clusters["cluster"].to_numpy().astype(np.int64)
    first, second = cues.values()
    return Truth(own, subject.labelled, accepted, first, second, which)


def read_decided(store: Store, cell: int) -> Decided:
    """What a complete cell decides, image by image."""
    found = store.frame(
        "SELECT predicted::BIGINT AS predicted, label_rank::DOUBLE AS rank, confidence::DOUBLE AS confidence "
        "FROM prediction WHERE cell = ? ORDER BY image_index",
        [cell],
    )
    rank, confidence = found["rank"].fill_null(np.nan), found["confidence"].clip(upper_bound=1).fill_null(np.nan)
    return Decided(found["predicted"].to_numpy(), rank.to_numpy(), confidence.to_numpy())


def shares_of(decided: Decided, truth: Truth, clean: Decided | None) -> dict[str, Share | None]:
    """Metric -> its share, or None where no image counts.

    Metrics that the images have no labels for, or the cell no confidences, are left out.
    """
    clusters, found = truth.clusters, dict[str, Share | None]()
    right = decided.rank == 0
    if truth.labelled:
        found["accuracy"] = share_of(right, clusters)
    elif clean is not None:
        found["agreement"] = share_of(decided.predicted == clean.predicted, clusters)
    if len(truth.accepted):
        listed = np.unique(truth.accepted >> 16)
        real = np.isin((listed << 16) + decided.predicted[listed], truth.accepted)
        found["accuracy_real"] = share_of(real, clusters[listed])
    if (of := truth.conflicting).any():
        decisions = Decisions(decided.predicted[of], truth.shape[of], truth.texture[of], clusters[of], truth.cues)
        for metric, part, whole in shape_shares(decisions, {}):
            if metric in (truth.cues.bias, truth.cues.accuracy):
                found[metric] = share_of(part[whole], clusters[of][whole]) if whole.any() else None
    if not np.isnan(decided.confidence).any():
        found["confidence"] = share_of(decided.confidence, clusters)
        if truth.labelled and not of.any():
            gaps = calibration_gaps(decided.confidence, right)[0]
            found["expected_calibration_error"] = share_of(gaps, clusters)
            found["top1_brier_score"] = share_of(np.square(decided.confidence - right), clusters)
    return found
