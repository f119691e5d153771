"""Read the data of a report from the database: accuracies and metrics of a study, and their provenance."""

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
"""Maximum number of models in charts. The published study has this many."""
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
    # Gates may have been computed on image sets that are not part of the study, so cells are matched without them.
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
"""Name of a frame -> query for its rows by study.id."""
VERSION_FRAMES = {
    "metrics": "FROM metric_of(?)",
    "judgements": "WITH judged AS (FROM condition_accuracy_of(?)) "
    "FROM judged WHERE images IN (SELECT images FROM judged WHERE NOT human)",
}
"""Name of a frame -> query for its rows by the label of a study version."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Data of one version of a study.

    Frames have the columns of the tables and views that they are named after. Rows of conditions also have the columns
    that describe conditions (see `database.study_versions`).
    """

    path: Path
    study: dict[str, Any]
    """Row of the table `study`, with the label and the number of predictions."""
    other_studies: list[str]
    """Labels of the newest versions of the other studies."""
    curve: pl.DataFrame
    metrics: pl.DataFrame
    condition_metrics: pl.DataFrame
    own_titles: dict[str, str]
    """Custom metric -> title in charts."""
    checkpoints: pl.DataFrame
    image_sets: pl.DataFrame
    conditions: pl.DataFrame
    sessions: pl.DataFrame
    cells: pl.DataFrame
    correlated: StudyTable | Missing
    """Biases and accuracies of each model, or the reason why there is nothing to correlate."""
    gates: pl.DataFrame
    """Rows of the view `gate`: verdicts on the precision of the study. Checkpoints have their names in the study."""
    releases: pl.DataFrame
    """Rows of the view `release_gate`: verdicts on this version against earlier releases."""
    consistency: pl.DataFrame
    """Rows of the table error_consistency on the study's images, for all models and human observers in the database.
    The table covers only the newest version of each study."""
    judgements: pl.DataFrame
    """Rows of the view condition_accuracy on the study's images, for its models and human observers."""
    doubts: list[str]
    """Warnings about image sets on which models are below chance, or whose images were upsampled."""
    verdict: Verdict
    """Findings about the frequencies that the models rely on, and a line for each metric that is not determined."""
    choice: list[str]
    """Models that charts show: all, or a selection."""

    @property
    def label(self) -> str:
        return str(self.study["label"])

    def select_choice(self, rows: pl.DataFrame, column: str = "checkpoint") -> pl.DataFrame:
        """Remove the rows of models that charts do not show."""
        left_out = set(self.checkpoints["name"]) - set(self.choice)
        return rows.filter(~pl.col(column).is_in(list(left_out)))

    def section(
        self, name: str, title: str, figures: Sequence[Figure], text: Sequence[str] = (), **content: Any
    ) -> Section:
        """Return a section of figures. Its text mentions if only some models are shown.

        Charts with fewer than two marks are omitted. If a figure has no chart left, only its table is shown.
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
    """Read the data of a study.

    Args:
        path: Results database.
        study: Name or name@version. By default, the study that was run last.

    Raises:
        UnknownName: If no study has this name.
        UsageError: If there is no study at all, or as raised by `open_store`.
        StoreError: As raised by `open_store`.
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
    # Use the clean accuracy or, if there is none, the mean over all conditions.
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
    """Return the frames of a version with a row for each condition, including descriptions of the conditions."""
    own_cycles = image_sets.select("own_cycles", image_set="name")
    views = {"curve": "curve_of", "condition_metrics": "condition_metric_of"}
    rows = {name: with_facts(store.frame(f"FROM {view}(?)", [label]), conditions) for name, view in views.items()}
    rows["curve"] = with_floors(store, label, rows["curve"])
    return {
        name: frame.join(own_cycles, on="image_set", how="left", maintain_order="left") for name, frame in rows.items()
    }


def add_before(results: ReportData, run: Run, name: str, cells: pl.DataFrame) -> ReportData:
    """Add the results of an earlier run as models `CHECKPOINT in NAME`, if charts have colors for all models.

    Models that are not compared in `cells`, and images and conditions that the study does not have, are omitted.
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
    """Select at most DRAWN_MODELS models at equal distances in the order of category and accuracy.

    Each category is thus represented in proportion to its size.

    Args:
        models: Columns checkpoint, category and accuracy. The accuracy may be null.
    """
    names = models.sort("category", "accuracy", "checkpoint")["checkpoint"]
    steps = np.linspace(0, len(names) - 1, min(DRAWN_MODELS, len(names))).round().astype(int)
    return names.gather(steps).sort().to_list()
