"""The section that sets the biases of one's own models against their generalization."""

from __future__ import annotations

from typing import Any

import polars as pl

from ...analysis.charts.maps import correlation_map
from ...analysis.correlations.models import StudyTable
from ...analysis.correlations.table import correlate_study
from ...analysis.statistics.arrays import ALPHA
from ...core.protocol import SUBSET_TITLES
from ...core.records import Missing
from .data import ReportData
from .sections import Figure, Section

MANY_MODELS = 200
"""Models above which intervals are so narrow that fewer resamples tell their ends."""
RESAMPLES, RESAMPLES_OF_MANY = 10_000, 1_000
NARROW_GROUPS = 5
"""Groups that leave room for their numbers on a third of a page."""
MAP_COLUMNS = ("coefficient", "low", "high", "p", "p_holm")
"""Columns that the maps show, whether the models are enough for any or not."""
MAP_CAPTION = (
    "Spearman's rho; orange is negative, purple positive. Bold with a star: p < 0.05 after Holm's correction for all "
    "{tests} tests. Pale: p ≥ 0.05 even without correction. Hover for the 95 % interval over models."
)


def correlations_section(results: ReportData) -> Section:
    """Heat maps of biases against generalization for one's own models; empty where there are none, see the verdict."""
    title, study = "Do biases explain generalization?", results.correlated
    if isinstance(study, Missing):
        return Section("correlations", title, [])
    table = correlations(study)
    text = f"Your {len(study.frame)} models: their biases against top-1 on the labelled image sets. {counts(table)}"
    columns = 3 if len(study.groups) <= NARROW_GROUPS else 1
    return Section(
        "correlations", title, [text], [correlations_figure("own-correlations", "Your models", table, columns)]
    )


def correlations(study: StudyTable) -> pl.DataFrame:
    """The rows of `correlate`, without the columns that have no value."""
    many = len(study.frame) > MANY_MODELS
    table = correlate_study(study, resamples=RESAMPLES_OF_MANY if many else RESAMPLES)
    return table.select(name for name in table.columns if name in MAP_COLUMNS or not table[name].is_null().all())


def correlations_figure(name: str, title: str, table: pl.DataFrame, columns: int, **properties: Any) -> Figure:
    """A heat map of each subset of the models."""
    panels = {
        title: correlation_map(part, f"{title} ({max(part['n'])} models)")
        for subset, title in SUBSET_TITLES.items()
        if len(part := table.filter(pl.col("subset") == subset))
    }
    return Figure(name, title, MAP_CAPTION.format(tests=table["p"].count()), panels, columns, table, **properties)


def counts(table: pl.DataFrame) -> str:
    """A sentence on how many correlations there are, and how many hold."""
    plain, corrected = ((table[name] < ALPHA).sum() for name in ("p", "p_holm"))
    return (
        f"Of {table['p'].count()} correlations, {plain} have p < {ALPHA}, and {corrected} hold after Holm's correction."
    )
