"""Which models a report draws where there are too many to tell apart."""

from __future__ import annotations

import polars as pl

MOST = 48
"""Models that are drawn at most: the published study has so many."""


def choose(models: pl.DataFrame, most: int = MOST) -> list[str]:
    """At most so many models, each category by its share of them and at its own even steps of accuracy.

    `models` has checkpoint, category, and accuracy, which may be null. Where there are no more than `most` categories,
    each of them has a model, and one with several has its least and its most accurate.
    """
    ordered = models.sort("category", "accuracy", "checkpoint")
    if len(ordered) <= most:
        return ordered["checkpoint"].sort().to_list()
    chosen: list[str] = []
    # Small categories choose first, so that what rounding leaves over goes to the largest.
    remaining = len(ordered)
    for rows in sorted(ordered.partition_by("category", maintain_order=True), key=len):
        places = most - len(chosen)
        count = min(places, max(1, round(places * len(rows) / remaining)))
        remaining -= len(rows)
        last = len(rows) - 1
        steps = [last / 2] if count == 1 else [last * k / (count - 1) for k in range(count)]
        chosen += [rows["checkpoint"][round(step)] for step in steps]
    return sorted(chosen)
