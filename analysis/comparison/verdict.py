"""The verdict on a study: what each model lives on, in sentences made of estimates, their intervals and their states.

A measure says in `Measure.verdict` which words its states have. A number without a sound state is not told; a line at
the end says of which models it is not determined, and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from ..database.store import Store
from ..measures.base import MEANINGLESS, State
from ..measures.registry import GRID_MEASURES, title_of
from .cells import Run, two_of
from .runs import compare_runs

TOLD = {measure.name: measure.verdict for measure in GRID_MEASURES if measure.verdict}
"""Measure -> what a model does in each state."""
FEW = 5
"""Models that have a sentence each; of more, each measure has one with the range of all."""
METRICS = """
SELECT metric.checkpoint, metric.image_set, metric, value, metric.low, metric.high, state, note, labelled
FROM metric_of($1) AS metric
JOIN (SELECT DISTINCT image_set, labelled FROM study_detail_of($1)) USING (image_set)
WHERE list_contains($2, metric)
ORDER BY ALL
"""


def verdict(store: Store, label: str) -> list[str]:
    """The sentences on a version of a study; the first is the finding, the last says what is not determined.

    UsageError where there is no such study.
    """
    rows = store.frame(METRICS, [label, list(TOLD)])
    if rows.is_empty():
        return [f"Nothing is determined yet: run a study with filters, then `bandlens analyze --db {store.path}`."]
    sentences, order = [], {name: place for place, name in enumerate(TOLD)}
    rows = rows.sort(pl.col("metric").replace_strict(order), maintain_order=True)
    for (image_set,), of_set in rows.group_by("image_set", maintain_order=True):
        models = of_set["checkpoint"].unique(maintain_order=True).to_list()
        told = _each if len(models) <= FEW else _together
        sentences += [f"{sentence}, on {image_set}." for sentence in told(of_set)]
        if len(models) == 2:
            run = Run(store, label)
            sentences.append(f"{compare_runs(*two_of(run, run, 'checkpoint', *models)).sentence}.")
    return [*dict.fromkeys(sentences), *_undetermined(rows)]


def in_words(row: Mapping[str, Any]) -> str | None:
    """The words of one estimate, with its interval where it is sound; None where its state has none."""
    template = TOLD[row["metric"]].get(State(row["state"]))
    if template is None or row["value"] is None:
        return None
    determined = row["state"] == State.OK.value and row["low"] is not None
    interval = f" [{row['low']:.0f}, {row['high']:.0f}]" if determined else ""  # the words say on which side it lies
    accuracy = "accuracy above chance" if row["labelled"] else "clean predictions"
    return template.format(accuracy=accuracy, value=f"{row['value']:.0f}{interval}")


def _each(rows: pl.DataFrame) -> Iterator[str]:
    for (checkpoint,), of_model in rows.group_by("checkpoint", maintain_order=True):
        clauses = [words for row in of_model.rows(named=True) if (words := in_words(row))]
        if clauses:
            yield f"{checkpoint} {'; it '.join(clauses)}"


def _together(rows: pl.DataFrame) -> Iterator[str]:
    """For each measure, the model at either end of the values that are determined."""
    sound = rows.filter(state=State.OK.value).sort("value", "checkpoint", maintain_order=True)
    for _, of_measure in sound.group_by("metric", maintain_order=True):
        first, last = of_measure.row(0, named=True), of_measure.row(-1, named=True)
        count = f"Of {len(of_measure):,} models"
        ends = [f"{row['checkpoint']} {in_words(row)}" for row in (first, last)]
        yield f"{count}, {ends[0]} at one end and {ends[1]} at the other" if len(of_measure) > 1 else ends[0]


def _undetermined(rows: pl.DataFrame) -> Iterator[str]:
    """Yield the reasons why something is not determined, each with the models that it is of."""
    unsound = rows.filter(pl.col("state").is_in([*MEANINGLESS, State.NO_INTERVAL]))
    for (metric, note), of_note in unsound.group_by("metric", "note", maintain_order=True):
        models = of_note["checkpoint"].unique(maintain_order=True).to_list()
        named = ", ".join(models) if len(models) <= FEW else f"{len(models):,} models"
        yield f"Not determined for {named}: {title_of(str(metric))}, since {note}."
