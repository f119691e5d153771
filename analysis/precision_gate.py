"""Precision gates: whether a faster precision answers as a trusted one does, condition by condition and image by image.

A flip is an image whose predicted class is another. An image is right as everywhere: its label was predicted, or,
without labels, the class that the same precision predicts for the unperturbed image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..records import Cell
from .gate_intervals import flip_interval, images_needed
from .gate_verdict import Limits, verdict
from .paired import Floats, Mask, paired
from .store import Store


def gate_cells(
    store: Store,
    pairs: Sequence[tuple[Cell, Cell]],
    limits: Limits,
    advance: Callable[[float], None] = lambda _: None,
) -> pl.DataFrame:
    """Compare cells, (reference, candidate) each, and keep what was found; gives the rows of the view `gate`.

    Pairs of which one cell is not complete are left out. `advance` is called once a checkpoint and image set.
    """
    found = store.frame(
        "SELECT trusted.cell AS reference, trusted.clean_cell AS reference_clean, own.cell AS candidate, "
        "own.clean_cell AS candidate_clean, own.image_set_id, own.checkpoint_id, own.labelled, own.itself "
        "FROM (SELECT unnest(?::VARCHAR[]) AS a, unnest(?::VARCHAR[]) AS b) "
        "JOIN cell AS cell_a ON cell_a.key = a JOIN cell_detail AS trusted ON trusted.cell = cell_a.id "
        "JOIN cell AS cell_b ON cell_b.key = b JOIN cell_detail AS own ON own.cell = cell_b.id ORDER BY own.cell",
        [[cell.key for cell, _ in pairs], [cell.key for _, cell in pairs]],
    )
    for _, group in found.group_by("checkpoint_id", "image_set_id", maintain_order=True):
        rows = _compare(store, group, limits)
        store.write_gates(rows)
        advance(1)
    return store.frame(
        "FROM gate WHERE (reference_cell, candidate_cell) IN "
        "(SELECT (unnest(?::INTEGER[]), unnest(?::INTEGER[]))) "
        "ORDER BY checkpoint, image_set, family, cutoff, noise_sd, frequency, parameters",
        [found["reference"].to_list(), found["candidate"].to_list()],
    )


def _compare(store: Store, pairs: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Rows of precision_gate for pairs of one checkpoint and image set."""
    clusters = store.frame(
        "SELECT cluster FROM image WHERE image_set = ? ORDER BY image_index", [pairs["image_set_id"][0]]
    )["cluster"].to_numpy()
    reference, right_a = _outcomes(store, pairs, "reference")
    candidate, right_b = _outcomes(store, pairs, "candidate")
    flipped, n = reference != candidate, len(clusters)
    flips_low, flips_high, effective = flip_interval(flipped, clusters)
    found = paired(right_a, right_b, clusters)
    numbers = {"reference_top1": right_a.mean(axis=1), "candidate_top1": right_b.mean(axis=1)}
    numbers |= {name: getattr(found, name) for name in ("difference", "low", "high", "lost", "gained", "p")}
    against_clean = ~pl.col("itself") & pl.all_horizontal(pl.col("reference_clean", "candidate_clean").is_not_null())
    rows = pairs.with_columns(
        n=pl.lit(n, pl.Int64),
        flips=pl.Series(flipped.mean(axis=1)),
        flips_low=pl.Series(flips_low),
        flips_high=pl.Series(flips_high),
        **{
            name: pl.when(pl.col("labelled") | against_clean).then(pl.Series(values, nan_to_null=True))
            for name, values in numbers.items()
        },
    ).with_columns(verdict=verdict(limits), max_flips=pl.lit(limits.flips), max_difference=pl.lit(limits.accuracy))
    difference, discordant = rows["difference"].fill_null(np.nan).to_numpy(), (found.lost + found.gained) / n
    needed = images_needed(flipped.mean(axis=1), difference, discordant, limits.flips, limits.accuracy) * n / effective
    return rows.with_columns(
        needed=pl.when(pl.col("verdict") == "undecided").then(_two_digits(np.maximum(needed, n + 1)))
    ).drop("reference_clean", "candidate_clean", "image_set_id", "checkpoint_id", "labelled", "itself")


def _two_digits(values: Floats) -> pl.Series:
    """Rounded up to whole numbers of two digits that count; null where infinite."""
    finite = np.where(np.isfinite(values), values, np.nan)
    step = 10 ** (np.floor(np.log10(finite)) - 1).clip(0)
    return pl.Series(np.ceil(finite / step) * step, nan_to_null=True).cast(pl.Int64)


def _outcomes(store: Store, pairs: pl.DataFrame, side: str) -> tuple[NDArray[np.uint16], Mask]:
    """(predicted, right), each (cells, n): against the label, or else the clean prediction if there is one."""
    own, clean = pairs[side], pairs[f"{side}_clean"]
    ids = pl.concat([own, clean]).drop_nulls().unique().sort()
    stored = store.frame(
        "SELECT predicted, label_rank FROM prediction WHERE cell IN (SELECT unnest(?::INTEGER[])) "
        "ORDER BY cell, image_index",
        [ids.to_list()],
    )
    predicted = stored["predicted"].to_numpy().reshape(len(ids), -1)
    place = ids.search_sorted(own).to_numpy()
    if pairs["labelled"][0]:
        return predicted[place], (stored["label_rank"].to_numpy().reshape(len(ids), -1) == 0)[place]
    against = ids.search_sorted(clean.fill_null(ids[0])).to_numpy()
    return predicted[place], predicted[place] == predicted[against]
