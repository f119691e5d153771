"""The sections that set biases against generalization: published models, and one's own if they are enough."""

from __future__ import annotations

from functools import cache
from typing import Any

import polars as pl

from ...analysis.charts.grammar import colors
from ...analysis.charts.maps import correlation_map, rho_text
from ...analysis.charts.numbers import scatter
from ...analysis.correlations.models import StudyTable
from ...analysis.correlations.table import correlate_study
from ...analysis.published.figures import BIASES, PUBLISHED_GROUPS, published_table, shipped_figures
from ...analysis.statistics.arrays import ALPHA
from ...core.protocol import SUBSET_TITLES
from .data import ReportData
from .sections import Figure, Section

MANY, RESAMPLES, FEWER = 200, 10_000, 1_000
"""Intervals take RESAMPLES; with more models than MANY they are narrow, and FEWER tell their ends."""
BESIDE = 5
"""Groups that leave room for their numbers on a third of a page."""
SHOWN = ("coefficient", "low", "high", "p", "p_holm")
"""Columns that the maps show, whether the models are enough for any or not."""
MAP_CAPTION = (
    "Spearman's rho; orange is negative, purple positive. Bold with a star: p < 0.05 after Holm's correction for all "
    "{tests} tests. Pale: p ≥ 0.05 even without correction. Hover for the 95 % interval over models."
)


def own_correlations(results: ReportData) -> pl.DataFrame | None:
    """Correlations of the study's own models; None where these are too few for any."""
    return None if isinstance(results.correlated, str) else _correlations(results.correlated)


def correlations_section(results: ReportData, table: pl.DataFrame | None) -> Section:
    """Heat maps of biases against generalization for one's own models; empty where there are none, see the verdict.

    `table` is that of `own_correlations`.
    """
    title, study = "Do biases explain generalization?", results.correlated
    if table is None or isinstance(study, str):
        return Section("correlations", title, [])
    text = f"Your {len(study.frame)} models: their biases against top-1 on the labelled image sets. {_verdict(table)}"
    columns = 3 if len(study.groups) <= BESIDE else 1
    figure = Figure("own-correlations", "Your models", _caption(table), _maps(table), columns, table)
    return Section("correlations", title, [text], [figure])


def published_section() -> Section:
    """The same for the study's models."""
    table = _published()
    figure = Figure("published-correlations", "48 ResNet-50s", _caption(table), _maps(table), 3, table, folded=True)
    cited = (
        "The published study is “Can Biases in ImageNet Models Explain Generalization?” (Gavrikov & Keuper 2024, "
        f"CC BY-SA 4.0); its figures ship with bandlens. {_verdict(table)}"
    )
    return Section("study", "The published study: do biases explain generalization?", [cited], [figure])


def scatter_section() -> Section:
    """Each bias against each group of benchmarks, for the study's models."""
    figures = shipped_figures()
    table = _published().filter(pl.col("subset") == "total")
    rho = {
        (bias, group): rho_text(value, adjusted)
        for bias, group, value, adjusted in table.select("bias", "group", "coefficient", "p_holm").rows()
    }
    panels = {
        f"{bias}, {group}": scatter(figures, bias, group, f"{group}: ρ = {rho[bias, group]}")
        for bias in BIASES
        for group in PUBLISHED_GROUPS
    }
    caption = (
        "One point a model. Pick a category or a model, or click a point, and the others fade; hover for the name. "
        "ρ is over all 48 models; a star holds after Holm's correction for all 72 tests."
    )
    legend, models = colors(figures["category"].unique().sort()), figures["model"].sort().to_list()
    title = "Biases against groups of benchmarks"
    figure = Figure("published-scatter", title, caption, panels, 4, figures, legend, models, folded=True)
    return Section("published", "The published study, model by model", [], [figure])


def _maps(table: pl.DataFrame) -> dict[str, Any]:
    """A heat map for each subset."""
    return {
        title: correlation_map(part, f"{title} ({max(part['n'])} models)")
        for subset, title in SUBSET_TITLES.items()
        if len(part := table.filter(pl.col("subset") == subset))
    }


def _caption(table: pl.DataFrame) -> str:
    return MAP_CAPTION.format(tests=table["p"].count())


@cache
def _published() -> pl.DataFrame:
    return _correlations(published_table())


def _correlations(study: StudyTable) -> pl.DataFrame:
    """Correlations as every section asks for them."""
    table = correlate_study(study, resamples=FEWER if len(study.frame) > MANY else RESAMPLES)
    return table.select(name for name in table.columns if name in SHOWN or not table[name].is_null().all())


def _verdict(table: pl.DataFrame) -> str:
    plain, corrected = ((table[name] < ALPHA).sum() for name in ("p", "p_holm"))
    return (
        f"Of {table['p'].count()} correlations, {plain} have p < {ALPHA}, and {corrected} hold after Holm's correction."
    )
