"""The verdict on a study, or on two runs: sentences made of estimates, their intervals and their states."""

# `Words.verdict` has the words that a measure's states have, and `Words.change` those of a difference. A number
# without a sound state is not told; lines at the end say of which models it is not determined, and why, and
# `Words.remedies` what to do.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ...core.errors import quoted
from ...core.protocol import CUES
from ..database.store import Store
from ..measures.base import REMEDIES, State
from ..measures.compute import has_values
from ..measures.registry import GRID_MEASURES, MEASURES, title_of
from .cells import Run, compare_cells, two_of
from .measures import compare_measures
from .words import in_words

TOLD = {measure.name: measure.shown.words.verdict for measure in GRID_MEASURES if measure.shown.words.verdict}
"""Measure -> what a model does in each state."""
FEW = 5
"""Models that have a sentence each; of more, each measure has one with the range of all. The most names in a list."""
METRICS = """
SELECT metric.checkpoint, metric.image_set, metric, value, metric.low, metric.high, state, note, labelled
FROM metric_of($1) AS metric
JOIN (SELECT DISTINCT image_set, labelled FROM study_detail_of($1)) USING (image_set)
WHERE list_contains($2, metric)
ORDER BY ALL
"""
CUE_BIASES = [cues.bias for cues in CUES]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Sentences, each of which has an interval or a state."""

    findings: list[str]
    """Sentences on what is determined; the first is the title of a report."""
    undetermined: list[str]
    """Lines on what is not determined: why, and what to do."""

    @property
    def sentences(self) -> list[str]:
        return [*self.findings, *self.undetermined]


def verdict(store: Store, label: str) -> Verdict:
    """The sentences on a version of a study: what each model lives on, and how two models differ.

    UsageError where there is no such study.
    """
    rows = _read_metrics(store, label)
    if rows.is_empty():
        advice = f"run a study with filters, then `bandlens analyze --db {quoted(store.path)}`"
        return Verdict([], [f"Nothing is determined yet: {advice}."])
    sentences, order = [], {name: place for place, name in enumerate(TOLD)}
    rows = rows.sort(pl.col("metric").replace_strict(order), maintain_order=True)
    for (image_set,), of_set in rows.group_by("image_set", maintain_order=True):
        models = of_set["checkpoint"].unique(maintain_order=True).to_list()
        told = _each if len(models) <= FEW else _together
        sentences += [f"{sentence}, on {image_set}." for sentence in told(of_set)]
    models = rows["checkpoint"].unique(maintain_order=True).to_list()
    if len(models) == 2:
        runs = two_of(Run(store, label), Run(store, label), "checkpoint", *models)
        if between := in_words(*runs, compare_cells(*runs).cells, compare_measures(*runs)[0]):
            sentences.append(f"{between}.")
    return Verdict(sentences, list(_undetermined(rows)))


def _read_metrics(store: Store, label: str) -> pl.DataFrame:
    """The estimates that a verdict is made of.

    On images of two cues these are the cue biases alone: accuracy under a filter is there the share of decisions for
    one of the cues, and half of it says nothing about what a model needs to recognize images.
    """
    rows = store.frame(METRICS, [label, list(TOLD)])
    is_bias = pl.col("metric").is_in(CUE_BIASES)
    return rows.filter(is_bias | ~is_bias.any().over("image_set")) if len(rows) else rows


def compare_verdict(a: Run, b: Run, cells: pl.DataFrame, metrics: pl.DataFrame) -> Verdict:
    """The sentences on two runs: what differs beyond chance, and what is not determined in one of them.

    `cells` are as `compare_cells` gives them, `metrics` as `compare_measures` does.
    """
    finding, lacking = in_words(a, b, cells, metrics), no_metrics(a, b)
    undetermined = []
    if finding is None:
        undetermined.append(
            f"Not determined: whether {b.name} differs from {a.name}, since they have no cells that could differ; run "
            "both on the same images and conditions."
        )
    undetermined += [f"Not determined: differences in metrics, since there are {lacking}."] if lacking else []
    rows_a, rows_b = (
        run.select(_read_metrics(run.store, run.label)).with_columns(
            # Checkpoints of one study are told apart by their names, runs of one checkpoint by theirs.
            checkpoint=pl.col("checkpoint") if run.column else pl.format("{} in {}", "checkpoint", pl.lit(run.name))
        )
        for run in (a, b)
    )
    undetermined += _undetermined(pl.concat([rows_a, rows_b]))
    return Verdict([f"{finding}."] if finding else [], undetermined)


def no_metrics(a: Run, b: Run) -> str | None:
    """The reason why two runs have no metrics to compare; None where they have."""
    for run in (a, b):
        if not has_values(run.store, run.label):
            where = f"--db {quoted(run.store.path)} --study {quoted(run.label)}"
            return f"none of {run.label}; run `bandlens analyze {where}` first"
    return None


def estimate_in_words(row: Mapping[str, Any]) -> str | None:
    """The words of one estimate, with its interval where it is sound; None where its state has none."""
    template = TOLD[row["metric"]].get(State(row["state"]))
    if template is None or row["value"] is None:
        return None
    value, low, high = (_number(row[name], MEASURES[row["metric"]].shown.unit) for name in ("value", "low", "high"))
    # Words on a cut at an end of the tested ones say on which side it lies; resamples may cross that end.
    interval = f" [{low}, {high}]" if low and (row["state"] == State.OK.value or low != high) else ""
    percent = " %" if MEASURES[row["metric"]].shown.unit == "share" else ""
    accuracy = "accuracy above chance" if row["labelled"] else "clean predictions"
    text = template.format(accuracy=accuracy, value=f"{value}{percent}{interval}")
    return text.replace(" 1 cycles ", " 1 cycle ")


def _number(value: float | None, unit: str) -> str:
    """A number without digits after the point, and a share in percent; empty where there is none."""
    return "" if value is None else f"{100 * value if unit == 'share' else value:z.0f}"  # z leaves no sign at 0


def _each(rows: pl.DataFrame) -> Iterator[str]:
    for (checkpoint,), of_model in rows.group_by("checkpoint", maintain_order=True):
        clauses = [words for row in of_model.rows(named=True) if (words := estimate_in_words(row))]
        if clauses:
            yield f"{checkpoint} {'; it '.join(clauses)}"


def _together(rows: pl.DataFrame) -> Iterator[str]:
    """For each measure, the model at either end of the values that are determined."""
    sound = rows.filter(state=State.OK.value).sort("value", "checkpoint", maintain_order=True)
    for _, of_measure in sound.group_by("metric", maintain_order=True):
        first, last = of_measure.row(0, named=True), of_measure.row(-1, named=True)
        count = f"Of {len(of_measure):,} models"
        ends = [f"{row['checkpoint']} {estimate_in_words(row)}" for row in (first, last)]
        yield f"{count}, {ends[0]} at one end and {ends[1]} at the other" if len(of_measure) > 1 else ends[0]


def _undetermined(rows: pl.DataFrame) -> Iterator[str]:
    """Yield the reasons why something is not determined, each with what it is true of, and with what to do."""
    titles: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (metric, image_set, state, note), of_note in rows.group_by(
        "metric", "image_set", "state", "note", maintain_order=True
    ):
        words = MEASURES[str(metric)].shown.words
        remedy = {**REMEDIES, **words.remedies}.get(State(state))
        if state == State.CENSORED_BELOW and words.lowest is not None and (of_note["value"] <= words.lowest).all():
            remedy = "nothing lower can be tested"
        if remedy:
            models = tuple(of_note["checkpoint"].unique(maintain_order=True))
            titles.setdefault((str(image_set), str(note), remedy, models), []).append(title_of(str(metric)))
    image_sets: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (image_set, note, remedy, models), measures in titles.items():
        image_sets.setdefault((note, remedy, models, tuple(measures)), []).append(image_set)
    for (note, remedy, models, of_reason), sets in image_sets.items():
        on_sets = f" on {_listed(sets, 'image sets')}" if rows["image_set"].n_unique() > 1 else ""
        yield (
            f"Not determined for {_listed(models, 'models')}{on_sets}: {' and '.join(of_reason)}, since {note}; "
            f"{remedy}."
        )


def _listed(names: Sequence[str], noun: str) -> str:
    return ", ".join(names) if len(names) <= FEW else f"{len(names):,} {noun}"
