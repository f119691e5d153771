"""Figures of the published study: the ten columns that its correlation table needs.

    ID = mean(imagenet, imagenet-v2, imagenet-real)         Robustness  = mean(imagenet-a, imagenet-c, imagenet-cbar)
    Concepts = mean(imagenet-sketch, imagenet-r, stylized)  Adversarial = PGD, 40 steps, eps 0.5/255

The values are top-1 accuracies in percent, exactly as published by Gavrikov & Keuper (2024), including their errors,
which docs/findings.md lists. The shipped CSV file starts with three lines of attribution. Its values are means of
columns of the study's benchmark.csv, with six decimals.
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
    """Return the published values of the 48 models: model, category, the four groups, and the six bias metrics."""
    return pl.read_csv(SHIPPED, comment_prefix="#")


def published_table() -> StudyTable:
    """Return the 48 models of the published study as an input for `correlate_study`."""
    denominators = denominators_of((bias, ID_BENCHMARK) for bias in BIASES)
    return StudyTable(shipped_figures(), BIASES, tuple(GROUPS), ID_GROUP, denominators=denominators)
