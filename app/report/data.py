"""The contents of a report, read from the database once: a study's accuracies, its metrics, and their origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...analysis.charts.grammar import COLORED_MODELS, count_rows
from ...analysis.comparison.cell_pairs import Run
from ...analysis.comparison.verdict import Verdict, verdict
from ...analysis.correlations.table_inputs import StudyTable, find_study_table, own_titles
from ...analysis.database.open import open_store
from ...analysis.database.store import Store
from ...analysis.database.study_versions import last_run, read_conditions, study_label, with_facts
from ...analysis.metrics.families.error_consistency import judged_images
from ...analysis.metrics.predictions import with_floors
from ...core.records import Missing, enlarged_in_words
from ..study.label_checks import doubt_accuracies
from .page import Figure, Section, Table

DRAWN_MODELS = 48
"""The most models that charts show: the published study has so many."""
STUDY_FRAMES = {
    "checkpoints": "SELECT checkpoint.* REPLACE (named.name AS name, named.category AS category) FROM checkpoint "
    "JOIN study_checkpoint AS named ON named.checkpoint = checkpoint.id WHERE named.study = ? ORDER BY name",
    "image_sets": "SELECT image_set.* REPLACE (shown.name AS name, shown.benchmark AS benchmark, "
    "shown.corruption AS corruption, shown.severity AS severity) FROM image_set "
    "JOIN study_image_set AS shown ON shown.image_set = image_set.id WHERE shown.study = ? ORDER BY name",
    "sessions": "SELECT DISTINCT session.* EXCLUDE (id, model_sha256) FROM study_cell "
    "JOIN part ON part.cell = study_cell.cell JOIN session ON session.id = part.session "
    "WHERE study_cell.study = ? ORDER BY ALL",
    "cells": "SELECT * FROM cell SEMI JOIN study_cell ON study_cell.cell = cell.id AND study_cell.study = ? "
    "ORDER BY id",
    # A gate may have been decided on images that are not the study's.
    "gates": "SELECT gate.* REPLACE (named.name AS checkpoint, named.category AS category) FROM gate "
    "JOIN cell ON cell.id = candidate_cell JOIN study_checkpoint AS named ON named.checkpoint = cell.checkpoint "
    "SEMI JOIN (SELECT onnx_sha256, engine, precision, condition, study_cell.study FROM cell "
    "JOIN study_cell ON study_cell.cell = cell.id) AS mine ON mine.study = named.study AND "
    "(mine.onnx_sha256, mine.engine, mine.precision, mine.condition) = "
    "(cell.onnx_sha256, cell.engine, cell.precision, cell.condition) WHERE named.study = ? "
    "ORDER BY named.name, gate.image_set",
    "releases": "SELECT release_gate.* EXCLUDE (study, version) FROM release_gate "
    "JOIN study_version ON label = version WHERE study_id = ? "
    "ORDER BY against, checkpoint, image_set, cell, slice, measure",
}
"""Frame -> its rows, by study.id."""
VERSION_FRAMES = {
    "metrics": "FROM metric_of(?)",
    "judgements": "WITH judged AS (FROM condition_accuracy_of(?)) "
    "FROM judged WHERE images IN (SELECT images FROM judged WHERE NOT human)",
}
"""Frame -> its rows, by the label of a version."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """One version of a study.

    Frames have the columns of the tables and views that they are named after; rows of conditions have their facts, too
    (see `database.study_versions`).
    """

    path: Path
    study: dict[str, Any]
    """The row of the table `study`, with its label and its number of predictions."""
    other_studies: list[str]
    """Labels of the newest versions of the other studies."""
    curve: pl.DataFrame
    metrics: pl.DataFrame
    condition_metrics: pl.DataFrame
    own_titles: dict[str, str]
    """Measures of the user's own, and what charts call them."""
    checkpoints: pl.DataFrame
    image_sets: pl.DataFrame
    conditions: pl.DataFrame
    sessions: pl.DataFrame
    cells: pl.DataFrame
    correlated: StudyTable | Missing
    """Biases and accuracies of each model; or why there is nothing to correlate."""
    gates: pl.DataFrame
    """Rows of the view `gate`: verdicts on the precision of the study, its checkpoints under their names in it."""
    releases: pl.DataFrame
    """Rows of the view `release_gate`: verdicts on this version against releases before it."""
    consistency: pl.DataFrame
    """Rows of the table error_consistency on the study's images, of every subject of the database; it has the newest
    versions alone."""
    judgements: pl.DataFrame
    """Rows of the view condition_accuracy on the study's images: its models, and people."""
    doubts: list[str]
    """Lines on image sets that models are right on less often than by chance, or whose images were enlarged."""
    verdict: Verdict
    """The frequencies that the models live on, and a line for each number that is not determined."""
    choice: list[str]
    """The models that charts show: all, or a choice of them."""

    @property
    def label(self) -> str:
        return str(self.study["label"])

    def select_choice(self, rows: pl.DataFrame, column: str = "checkpoint") -> pl.DataFrame:
        """Rows without those of models that charts do not show."""
        left_out = set(self.checkpoints["name"]) - set(self.choice)
        return rows.filter(~pl.col(column).is_in(list(left_out)))

    def section(
        self, name: str, title: str, figures: Sequence[Figure], text: Sequence[str] = (), **content: Any
    ) -> Section:
        """A section of figures, whose text says which models are drawn where these are not all.

        Charts of one dot or none are left out, and of a figure without a chart the table is there alone.
        """
        figures = [
            replace(figure, panels={title: panel for title, panel in figure.panels.items() if count_rows(panel) > 1})
            for figure in figures
        ]
        in_place = [Table(figure.title, figure.table, figure.folded) for figure in figures if not figure.panels]
        content["tables"] = [*in_place, *content.get("tables", ())]
        figures = [figure for figure in figures if figure.panels]
        if figures and len(self.choice) < len(self.checkpoints):
            line = (
                f"Drawn are {len(self.choice):,} of {len(self.checkpoints):,} models, at even steps of category and "
                "accuracy; tables have the others too."
            )
            text = [*text, line]
        return Section(name, title, text, figures, **content)


def read_data(path: Path, study: str | None = None) -> ReportData:
    """The study of this name or name@version, or the one that ran last.

    Raises:
        UnknownName: there are studies, and none of that name.
        UsageError: there is none at all.
        StoreError, UsageError: as `open_store`.
    """
    with open_store(path, read_only=True) as store:
        return _read(store, study_label(store, study or last_run(store)))


def _read(store: Store, label: str) -> ReportData:
    query = (
        "SELECT study.*, label, (SELECT coalesce(sum(count), 0)::BIGINT FROM study_cell JOIN part USING (cell) "
        "WHERE study_cell.study = study.id) AS predictions "
        "FROM version_of(?) JOIN study ON study.id = study_id ORDER BY last_run, id"
    )
    study = store.frame(query, [label]).row(0, named=True)
    newest = store.frame(query, ["*"]).select("name", "label")
    frames = {name: store.frame(query, [study["id"]]) for name, query in STUDY_FRAMES.items()}
    frames |= {name: store.frame(query, [label]) for name, query in VERSION_FRAMES.items()}
    conditions = read_conditions(store, label)
    frames["gates"] = with_facts(frames["gates"], conditions).sort("checkpoint", "image_set", "place")
    frames |= _with_facts(store, label, conditions, frames["image_sets"])
    # The accuracy without perturbation, or else that over everything.
    clean = pl.col("top1").filter(pl.col("probe") == "clean", pl.col("measure") == "accuracy").mean()
    means = frames["curve"].group_by("checkpoint").agg(accuracy=pl.coalesce(clean, pl.col("top1").mean()))
    models = frames["checkpoints"].select("category", checkpoint="name")
    return ReportData(
        path=store.path,
        study=study,
        other_studies=newest.filter(pl.col("name") != study["name"])["label"].to_list(),
        own_titles=own_titles(store, label),
        conditions=conditions,
        correlated=find_study_table(store, label),
        consistency=store.frame(
            "FROM error_consistency WHERE images IN (SELECT unnest(?::VARCHAR[])) "
            "ORDER BY images, first_subject, second_subject, condition",
            [judged_images(store, label) if label in newest["label"] else []],
        ),
        verdict=verdict(store, label),
        doubts=_doubts(store, frames),
        choice=choose(models.join(means, on="checkpoint", how="left", maintain_order="left")),
        **frames,
    )


def _with_facts(
    store: Store, label: str, conditions: pl.DataFrame, image_sets: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """The frames of a version that have a row for each condition, with the facts of these."""
    own_cycles = image_sets.select("own_cycles", image_set="name")
    views = {"curve": "curve_of", "condition_metrics": "condition_metric_of"}
    rows = {name: with_facts(store.frame(f"FROM {view}(?)", [label]), conditions) for name, view in views.items()}
    rows["curve"] = with_floors(store, label, rows["curve"])
    return {
        name: frame.join(own_cycles, on="image_set", how="left", maintain_order="left") for name, frame in rows.items()
    }


def add_before(results: ReportData, run: Run, name: str, cells: pl.DataFrame) -> ReportData:
    """The study with the numbers of a run before it, as models `CHECKPOINT in NAME`, where charts have colours for all.

    Models are left out of which nothing is compared, by `cells`, and what the study has not, images or conditions.
    """
    models, image_sets = cells["checkpoint"].unique(), results.image_sets["name"]
    if len(models) + len(results.choice) > COLORED_MODELS:
        return results
    frames: dict[str, Any] = {"metrics": run.store.frame("FROM metric_of(?)", [run.label])}
    frames |= _with_facts(run.store, run.label, results.conditions, results.image_sets)
    is_shared = pl.col("checkpoint").is_in(models.implode()) & pl.col("image_set").is_in(image_sets.implode())
    for frame, rows in frames.items():
        before = rows.filter(is_shared).with_columns(checkpoint=pl.format("{} in {}", "checkpoint", pl.lit(name)))
        before = before.drop_nulls("place") if "place" in rows.columns else before
        frames[frame] = pl.concat([getattr(results, frame), before])
    return replace(results, **frames)


def _doubts(store: Store, frames: Mapping[str, pl.DataFrame]) -> list[str]:
    names, image_sets = (dict(frames[table].select("id", "name").rows()) for table in ("checkpoints", "image_sets"))
    cells = {
        key: (names[checkpoint], image_sets[image_set])
        for key, checkpoint, image_set in frames["cells"].select("key", "checkpoint", "image_set").rows()
    }
    cycles_of_sets = frames["image_sets"].filter(pl.col("own_cycles").is_not_null()).select("name", "own_cycles")
    return [*doubt_accuracies(store, cells), *(enlarged_in_words(*row) for row in cycles_of_sets.rows())]


def choose(models: pl.DataFrame) -> list[str]:
    """At most DRAWN_MODELS models at even steps of category and accuracy, so that each category has its share.

    `models` has checkpoint, category, and accuracy, which may be null.
    """
    names = models.sort("category", "accuracy", "checkpoint")["checkpoint"]
    steps = np.linspace(0, len(names) - 1, min(DRAWN_MODELS, len(names))).round().astype(int)
    return names.gather(steps).sort().to_list()
