"""The published study's figures: the ten that its correlation table needs.

    ID = mean(imagenet, imagenet-v2, imagenet-real)         Robustness  = mean(imagenet-a, imagenet-c, imagenet-cbar)
    Concepts = mean(imagenet-sketch, imagenet-r, stylized)  Adversarial = PGD, 40 steps, eps 0.5/255

top-1 in percent, exactly as published, faults included (docs/findings.md lists them). Source: Gavrikov & Keuper 2024.
Below three lines of attribution the shipped CSV has the means of columns of benchmark.csv, with six decimals.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ...core.protocol import GROUPS
from ..correlations.table_inputs import ID_BENCHMARK, ID_GROUP, StudyTable, denominators_of
from ..metrics.families import critical_band, cue_conflict, spectral_bias

SHIPPED = Path(__file__).with_name("published_figures.csv")
BIASES = tuple(
    measure.name
    for module in (cue_conflict, spectral_bias, critical_band)
    for measure in module.MEASURES
    if measure.display.published
)


def shipped_figures() -> pl.DataFrame:
    """48 rows: model, category, the four groups, the six biases; six decimals."""
    return pl.read_csv(SHIPPED, comment_prefix="#")


def published_table() -> StudyTable:
    """The 48 models of the study as `correlate_study` takes them."""
    denominators = denominators_of((bias, ID_BENCHMARK) for bias in BIASES)
    return StudyTable(shipped_figures(), BIASES, tuple(GROUPS), ID_GROUP, denominators=denominators)
