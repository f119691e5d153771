"""Which models a report draws where there are too many to tell apart."""

from __future__ import annotations

import polars as pl

MOST = 48
"""Models that are drawn: as many as the published study has."""


def choose(models: pl.DataFrame, most: int = MOST) -> list[str]:
    """At most so many models, each category by its share of them and at its own even steps of accuracy.

    `models` has checkpoint, category, and accuracy, which may be null. Where there are no more than `most` categories,
    each of them has a model, and one with several has its least and its most accurate.
    """
    ordered = models.sort("category", "accuracy", "checkpoint")
    if len(ordered) <= most:
        return ordered["checkpoint"].sort().to_list()
    chosen: list[str] = []
    # The small ones first: what rounding leaves over then goes to the largest.
    left = len(ordered)
    for rows in sorted(ordered.partition_by("category", maintain_order=True), key=len):
        places = most - len(chosen)
        wanted = min(places, max(1, round(places * len(rows) / left)))
        left -= len(rows)
        last = len(rows) - 1
        at = [last / 2] if wanted == 1 else [last * k / (wanted - 1) for k in range(wanted)]
        chosen += [rows["checkpoint"][round(place)] for place in at]
    return sorted(chosen)
