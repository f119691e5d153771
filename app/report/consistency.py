"""The section on who errs on the same images, and on models beside people by condition."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ...analysis.charts.curves import PEOPLE, subject_curves
from ...analysis.charts.grammar import SLANTED_COLUMNS, words
from ...analysis.charts.maps import kappa_map
from .data import ReportData
from .sections import Figure, Section, Table

TEXT = (
    "Cohen's kappa of right and wrong: 0 for two who err independently of each other, 1 for two who err on the same "
    "images, whatever they answer there. Unequal accuracies allow less than 1, and who makes no error has no kappa. "
    "Over several conditions it is the mean of each condition's."
)
PEOPLE_CAPTION = "Models with 95 % intervals, and the mean of people, with the least and the most accurate of them."


def consistency_section(results: ReportData) -> Section:
    """Kappa of every two subjects on each image set, and accuracy by condition where people saw the images too."""
    pairs = results.seen(results.seen(results.consistency, "first_subject"), "second_subject")
    figures = [*_kappas(pairs), *_conditions(results), *_probes(results)]
    tables = [Table("Every two subjects, by condition", results.consistency, folded=True)]
    return Section("consistency", "Who errs on the same images", [TEXT, *results.choice], figures, tables)


def _kappas(table: pl.DataFrame) -> Iterator[Figure]:
    if table.is_empty():
        return
    several = pl.len() > 1
    means = table.group_by("images", "first_subject", "second_subject", "humans", maintain_order=True).agg(
        pl.col("kappa").mean(),
        pl.when(~several).then(pl.col("low").first()).alias("low"),
        pl.when(~several).then(pl.col("high").first()).alias("high"),
        pl.when(~several).then(pl.col("most").first()).alias("most"),
        pl.col("n").sum(),
    )
    renamed = means.rename({"first_subject": "first", "second_subject": "second"})
    panels = {
        str(images): kappa_map(rows, str(images)) for (images,), rows in renamed.group_by("images", maintain_order=True)
    }
    caption = "A tile for every two; hover, or open the table, for intervals and the most that the accuracies allow."
    subjects = pl.concat([means["first_subject"], means["second_subject"]]).n_unique()
    columns = 2 if subjects <= SLANTED_COLUMNS else 1
    yield Figure("error-consistency", "Error consistency", caption, panels, columns, means)


def _conditions(results: ReportData) -> Iterator[Figure]:
    """Only sets of several conditions have a curve."""
    many = results.judged.filter(pl.col("condition").n_unique().over("images") > 1)
    if many.is_empty():
        return
    rows = _with_people(many).sort("images", "subject")
    panels = {
        str(images): subject_curves(part, str(images))
        for (images,), part in results.seen(rows, "subject").group_by("images", maintain_order=True)
    }
    caption = f"{PEOPLE_CAPTION} Conditions are as the experiments name them."
    yield Figure("accuracy-by-condition", "Accuracy by condition", caption, panels, 2, rows)


def _probes(results: ReportData) -> Iterator[Figure]:
    """A panel for each probe of the experiments with people and each image set that models were run on."""
    setting = pl.col("setting").map_elements("{:g}".format, pl.String)
    rows = results.human_probe.with_columns(setting.alias("condition"))
    people, panels, drawn = rows.filter("human"), {}, []
    for (images, probe), models in rows.filter(~pl.col("human")).group_by("images", "probe", maintain_order=True):
        if len(observers := people.filter(probe=probe)):
            subjects = _with_people(pl.concat([observers.with_columns(images=pl.lit(images)), models])).sort("subject")
            title = f"{words(str(probe))} on {images}"
            panels[title] = subject_curves(results.seen(subjects, "subject"), title)
            drawn.append(subjects.with_columns(probe=pl.lit(probe)))
    if panels:
        caption = f"{PEOPLE_CAPTION} The photographs need not be those that people saw."
        yield Figure("people-and-probes", "Models and people under probes", caption, panels, 2, pl.concat(drawn))


def _with_people(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of images, condition, subject, top1, low, high, n: all observers together, then each model."""
    people = (
        rows.filter("human")
        .group_by("images", "condition", maintain_order=True)
        .agg(
            pl.lit(PEOPLE).alias("subject"),
            pl.col("top1").mean(),
            pl.col("top1").min().alias("low"),
            pl.col("top1").max().alias("high"),
            pl.col("n").sum(),
        )
    )
    return pl.concat([people, rows.filter(~pl.col("human")).select(people.columns)])
