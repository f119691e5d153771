"""Every metric of every checkpoint of a study, from the database and back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...errors import UsageError
from ...protocol import BIAS_CUTOFFS, CUES, FREQUENCIES, NOISE_SDS, SHAPE_CUES, SPACE_CLASSES, Cues
from ..database.store import Store
from .critical_band import CriticalBand, band_gaps, fit_band, integer_thresholds, normalized_thresholds
from .generalization import generalization, read_benchmarked
from .psychometric import CHANNEL, Setting, channel_gap, estimate_band, with_threshold
from .shape_bias import Decisions, shape_bias
from .spectral_bias import PROBES, spectral_bias, spectral_intervals
from .states import State

PUBLISHED = {
    "critical_bandwidth": "bandwidth",
    "critical_center_frequency": "center_frequency",
    "critical_peak_noise_sensitivity": "peak_noise_sensitivity",
}
"""Metric -> its name in the fit: the study's three numbers, which it takes from the normalized thresholds."""


def compute_metrics(
    store: Store,
    study: str,
    resamples: int = 1000,
    rgb_reference: bool = False,
    advance: Callable[[float], None] = lambda _: None,
) -> pl.DataFrame:
    """Compute the metrics of a study (name, or name@version) and keep them in the database.

    Args:
        store: open for writing.
        study: `*` stands for the newest version of every study.
        resamples: of the bootstrap over images.
        rgb_reference: take the clean accuracy in colour as the reference of the normalized thresholds, instead of the
            accuracy on grey images without noise.
        advance: called once a checkpoint and image set.

    Returns:
        The columns of SCHEMA. A study has spectral biases where it filtered images, and shape biases where images have
        labels of two cues. Generalization has no image set: it may be the mean over several.
    """
    curve = store.frame("SELECT * REPLACE (version AS study) FROM curve_of(?)", [study])
    biases = spectral_bias(curve)
    rows: list[dict[str, Any]] = []
    for study_id, of_study in groupby(subjects(store, study), lambda one: one.study_id):
        benchmarked = read_benchmarked(store, study_id)
        for checkpoint_id, of_checkpoint in groupby(of_study, lambda one: one.checkpoint_id):
            for subject in of_checkpoint:
                spectral = _spectral(store, subject, biases, resamples)
                band = _critical_band(store, subject, curve, resamples, rgb_reference)
                shape = shape_bias(*read_decisions(store, subject)) if subject.cues else ()
                rows += [_names(subject, KEYS) | row for row in (*spectral, *band, *shape)]
                advance(1)
            general = generalization(store, benchmarked, checkpoint_id)
            rows += [_names(subject, KEYS[:4]) | row for row in general]
    metrics = pl.DataFrame(rows, SCHEMA)
    store.write_metrics(metrics)
    return metrics


KEYS = ("study_id", "study", "checkpoint_id", "checkpoint", "image_set_id", "image_set")
SCHEMA = {
    "study_id": pl.Int32,
    "study": pl.String,
    "checkpoint_id": pl.Int32,
    "checkpoint": pl.String,
    "image_set_id": pl.Int32,
    "image_set": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "state": pl.String,
    "note": pl.String,
}


def _names(subject: Subject, keys: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(subject, name) for name in keys}


def _mine(frame: pl.DataFrame, subject: Subject) -> pl.DataFrame:
    return frame.filter(pl.col(name) == getattr(subject, name) for name in ("study", "checkpoint", "image_set"))


def _spectral(store: Store, subject: Subject, biases: pl.DataFrame, resamples: int) -> Iterator[dict[str, Any]]:
    """The rows of the spectral biases, with an interval over images where they have a value."""
    if not subject.probes & set(PROBES.values()):
        return
    biases = _mine(biases, subject)
    valued = biases.drop_nulls("value")["metric"]
    found: dict[str, tuple[float, float]] = {}
    if means := [name for name in PROBES if name in valued]:
        correct, clusters = read_outcomes(store, subject, filtered(means))
        found = spectral_intervals(correct, clusters, resamples, means=means)
        if not found:
            few = pl.lit(f"{len(set(clusters))} independent images are too few for an interval")
            there = pl.col("value").is_not_null()
            biases = biases.with_columns(
                state=pl.when(there).then(pl.lit(State.NO_INTERVAL.value)).otherwise("state"),
                note=pl.when(there).then(few).otherwise("note"),
            )
    for row in biases.select("metric", "value", "state", "note").to_dicts():
        low, high = found.get(row["metric"], (None, None))
        yield row | {"low": low, "high": high}


def _critical_band(
    store: Store, subject: Subject, curve: pl.DataFrame, resamples: int, rgb_reference: bool
) -> Iterator[dict[str, Any]]:
    if "critical_band" not in subject.probes:
        return
    mine, settings = _mine(curve, subject), band_settings(store, subject)
    band = mine.filter(pl.col("probe") == "critical_band")
    if gaps := band_gaps(settings):
        yield from _without_value(PUBLISHED, State.MISSING, gaps)
    else:
        clean = mine.filter(pl.col("probe") == "clean")["top1"]
        rgb = 100 * float(clean[0]) if rgb_reference and len(clean) else None
        yield from _integers(band, rgb, subject.size)
    if gaps := channel_gap(settings):
        yield from _without_value([f"psychometric_{name}" for name in CHANNEL], State.MISSING, gaps)
    if not with_threshold(settings) or band["top1"].has_nulls():
        return
    correct, clusters = read_outcomes(store, subject, CRITICAL_BAND)
    estimate = estimate_band(
        correct, clusters, settings=settings, floor=subject.floor, size=subject.size, resamples=resamples
    )
    for row in estimate.rows():
        if not (gaps and row["metric"] in CHANNEL):
            yield row | {"metric": f"psychometric_{row['metric']}"}


def _integers(band: pl.DataFrame, rgb: float | None, size: int) -> Iterator[dict[str, Any]]:
    """By the published estimator, of the curve of critical_band; rgb is an accuracy in percent to take as reference."""
    cells = {(sd, f): percent for sd, f, percent in band.select("noise_sd", "frequency", 100 * pl.col("top1")).rows()}
    # (5, 7) percent: noise_sd by frequency.
    accuracy = np.array([[cells[sd, f if sd else None] for f in FREQUENCIES] for sd in NOISE_SDS], dtype=np.float64)
    if np.isnan(accuracy).any():
        yield from _without_value(PUBLISHED, State.MISSING, "no clean prediction to agree with")
        return
    if accuracy[0, 0] > 0 and (rgb is None or rgb > 0):
        yield from _published(fit_band(normalized_thresholds(accuracy, rgb), size), "")
    else:
        yield from _without_value(PUBLISHED, State.UNDETERMINED, "nothing is right without noise")
    yield from _published(fit_band(integer_thresholds(accuracy), size), "_raw")


def band_settings(store: Store, subject: Subject) -> list[Setting]:
    """noise_sd and frequency of the conditions of CRITICAL_BAND, by ORDER."""
    found = store.frame(
        "SELECT noise_sd, frequency FROM study_cell JOIN cell_detail AS detail USING (cell) "
        f"WHERE study_cell.study = ? AND checkpoint_id = ? AND image_set_id = ? AND {CRITICAL_BAND} "
        f"ORDER BY {ORDER}",
        [subject.study_id, subject.checkpoint_id, subject.image_set_id],
    )
    return found.rows()


def _without_value(metrics: Iterable[str], state: State, note: str) -> Iterator[dict[str, Any]]:
    return ({"metric": metric, "state": state, "note": note} for metric in metrics)


def _published(band: CriticalBand, suffix: str) -> Iterator[dict[str, Any]]:
    """The rows of the three numbers, and of the seven thresholds that they come of."""
    for metric, name in PUBLISHED.items():
        value = getattr(band, name)
        found = {"value": value if np.isfinite(value) else None, "state": band.state, "note": band.note}
        yield {"metric": f"{metric}{suffix}"} | found
    for frequency, steps in zip(FREQUENCIES, band.thresholds, strict=True):
        yield {"metric": f"critical_threshold_{frequency}{suffix}", "value": float(steps), "state": State.OK}


def read_decisions(store: Store, subject: Subject) -> tuple[Decisions, dict[int, str]]:
    """What the subject's clean cell decides between two cues, and what the classes are called."""
    cues = subject.cues or SHAPE_CUES
    found = store.frame(
        "SELECT prediction.predicted, first.class AS first, second.class AS second, image.cluster "
        "FROM study_cell JOIN cell_detail AS detail USING (cell) JOIN prediction USING (cell) "
        "JOIN label AS first ON first.image_set = image_set_id AND first.image_index = prediction.image_index "
        "JOIN label AS second ON second.image_set = image_set_id AND second.image_index = prediction.image_index "
        "JOIN image ON image.image_set = image_set_id AND image.image_index = prediction.image_index "
        "WHERE study_cell.study = ? AND checkpoint_id = ? AND image_set_id = ? AND probe = 'clean' "
        "AND first.scheme = ? AND second.scheme = ? AND first.class <> second.class "
        "ORDER BY prediction.image_index",
        [subject.study_id, subject.checkpoint_id, subject.image_set_id, cues.first, cues.second],
    )
    names = store.frame(
        "SELECT class, shown_class.name FROM shown_class JOIN checkpoint USING (classes) "
        "WHERE image_set = ? AND checkpoint.id = ?",
        [subject.image_set_id, subject.checkpoint_id],
    )
    predicted, first, second, clusters = (column.to_numpy() for column in found)
    return Decisions(predicted, first, second, clusters, cues), dict(names.rows())


CRITICAL_BAND = "probe = 'critical_band'"
ORDER = f"list_position({['clean', *PROBES.values()]}, probe), cutoff, frequency NULLS FIRST, noise_sd"
"""Clean, then the low-passes and the high-passes, each by cutoff; bands by frequency, and before them without noise."""


def filtered(means: Iterable[str]) -> str:
    """The conditions of means of ratios, metrics of PROBES: clean, and each filter at BIAS_CUTOFFS."""
    probes = ("clean", *(PROBES[name] for name in means))
    return f"probe IN {probes} AND (cutoff IS NULL OR round(cutoff, 3) IN {BIAS_CUTOFFS})"


def read_outcomes(store: Store, subject: Subject, wanted: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(conditions, n) right or wrong of the conditions wanted, by ORDER; (n,) clusters."""
    found = store.frame(
        "SELECT cell, outcome.correct, outcome.cluster FROM study_cell JOIN cell_detail AS detail USING (cell) "
        "JOIN cell_outcome AS outcome USING (cell) "
        f"WHERE study_cell.study = ? AND checkpoint_id = ? AND image_set_id = ? AND {wanted} "
        f"ORDER BY {ORDER}, image_index",
        [subject.study_id, subject.checkpoint_id, subject.image_set_id],
    )
    shape = found["cell"].n_unique(), -1
    correct, clusters = (found[name].to_numpy().reshape(shape) for name in ("correct", "cluster"))
    return correct, clusters[0].astype(np.int64)


# What metrics are computed for


@dataclass(frozen=True, slots=True)
class Subject:
    """One checkpoint on one image set in one version of a study."""

    study_id: int
    study: str
    checkpoint_id: int
    checkpoint: str
    image_set_id: int
    image_set: str
    classes: int
    """Number of classes in the decision space: a blind guess is right once in so many images."""
    size: int
    """Pixels a side of the images."""
    labelled: bool
    cues: Cues | None
    """Those that conflict in the images, if any do."""
    probes: frozenset[str]
    """Probes that its complete cells ran under."""

    @property
    def floor(self) -> float:
        """Accuracy of a blind guess; 0 where agreement is measured."""
        return 1 / self.classes if self.labelled else 0.0


SECOND_CUES = {cues.second: cues for cues in CUES}


def subjects(store: Store, study: str) -> list[Subject]:
    """What the metrics of a study (name, name@version, or `*`) are computed for.

    UsageError where there is no such study, or none of its cells is complete.
    """
    found = store.frame(
        "SELECT study_id, version AS study, checkpoint_id, checkpoint, image_set_id, image_set, classes, "
        "max(detail.decision_space) AS decision_space, images.size, "
        "detail.labelled, second.scheme AS cues, "
        "list_sort(list(DISTINCT probe)) AS probes "
        "FROM study_detail_of(?) AS detail JOIN checkpoint AS c ON c.id = checkpoint_id "
        "JOIN image_set AS images ON images.id = image_set_id "
        "LEFT JOIN (SELECT DISTINCT image_set AS conflicting, scheme FROM label "
        f"WHERE scheme IN {(*SECOND_CUES,)}) AS second ON conflicting = image_set_id "
        "GROUP BY ALL ORDER BY ALL",
        [study],
    )
    if not len(found):
        raise UsageError(f"{store.path} has no complete cell to analyze; `bandlens run` the study first")
    classes = pl.col("decision_space").replace_strict(SPACE_CLASSES, default=pl.col("classes"), return_dtype=pl.Int32)
    rows = found.with_columns(classes=classes).drop("decision_space").to_dicts()
    return [Subject(**row | {"probes": frozenset(row["probes"]), "cues": SECOND_CUES.get(row["cues"])}) for row in rows]
