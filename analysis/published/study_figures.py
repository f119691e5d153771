"""The published study's figures: the ten that its correlation table needs.

    ID = mean(imagenet, imagenet-v2, imagenet-real)      Robustness  = mean(imagenet-a, imagenet-c, imagenet-cbar)
    Concepts = mean(imagenet-sketch, imagenet-r, stylized)  Adversarial = PGD, 40 steps, eps 0.5/255

top-1 in percent, exactly as published, faults included (docs/findings.md lists them). Source: Gavrikov & Keuper 2024.
Below three lines of attribution the shipped CSV has the means of columns of benchmark.csv, with six decimals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from ...core.protocol import AS_PUBLISHED, GROUPS
from ..correlations.model_values import ID_BENCHMARK, ID_GROUP, SUBSET_FILTERS, StudyTable, denominators_of
from ..correlations.table import correlate
from ..measures import critical_band, cues, spectral_bias
from ..statistics import ALPHA

SHIPPED = Path(__file__).with_name("published_figures.csv")
PUBLISHED_GROUPS = tuple(group for group in GROUPS if group != AS_PUBLISHED)
FEWEST_RESAMPLES = 100
"""Resamples of a table whose intervals are not shown."""
BIASES = tuple(
    measure.name
    for module in (cues, spectral_bias, critical_band)
    for measure in module.MEASURES
    if measure.display.published
)


def shipped_figures() -> pl.DataFrame:
    """48 rows: model, category, the four groups, the six biases; six decimals."""
    return pl.read_csv(SHIPPED, comment_prefix="#")


def published_table() -> StudyTable:
    """The 48 models of the study as `correlate_study` takes them."""
    denominators = denominators_of((bias, ID_BENCHMARK) for bias in BIASES)
    return StudyTable(shipped_figures(), BIASES, PUBLISHED_GROUPS, ID_GROUP, denominators=denominators)


def correlation_table(figures: pl.DataFrame) -> list[dict[str, Any]]:
    """{bias, group, subset, spearman, p, n} for 6 biases x 4 groups x 3 subsets, in the published order.

    Subsets are all models (total), the adversarially trained ones by category, and the others. As published,
    spearman reads 0 where p >= 0.05; it is None where it is not defined.
    """
    table = correlate(figures, BIASES, PUBLISHED_GROUPS, SUBSET_FILTERS, resamples=FEWEST_RESAMPLES)
    spearman = pl.when(pl.col("p") < ALPHA).then("coefficient").when(pl.col("p").is_not_null()).then(0.0)
    return table.select("bias", "group", "subset", spearman=spearman, p="p", n="n").to_dicts()
