"""Two runs of the same conditions, cell by cell and image by image.

A cell of one run belongs to the cell of the other that has the same checkpoint name, image set name, probe and
parameters. Whatever else differs, such as weights, precision or a probe's implementation, is what the comparison is of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...errors import UsageError
from ..database.store import Store
from ..statistics.arrays import Mask, Whole
from ..statistics.coefficients import benjamini_hochberg, holm
from ..statistics.paired import paired

MATCH = ["checkpoint", "image_set", "probe", "parameters"]
"""What two cells have in common."""
REASONS = {
    "model": "weights or export",
    "digest": "images or labels",
    "condition": "implementation of the probe",
    "engine": "engine",
    "precision": "precision",
    "decision_space": "decision space",
    "seed": "seed",
}
"""Column -> what it means where it differs."""
CELLS = {
    **dict.fromkeys(MATCH, pl.String),
    "differs_in": pl.String,
    "n": pl.Int64,
    "changed": pl.Int64,
    **dict.fromkeys(["top1_a", "top1_b", "difference", "low", "high"], pl.Float64),
    "lost": pl.Int64,
    "gained": pl.Int64,
    **dict.fromkeys(["p", "p_holm", "p_bh"], pl.Float64),
    "note": pl.String,
}


@dataclass(frozen=True, slots=True)
class Run:
    """A version of a study in an open database."""

    store: Store
    label: str


@dataclass(frozen=True, slots=True)
class Compared:
    cells: pl.DataFrame
    """The columns of CELLS, for each cell that both runs have and that is not one and the same."""
    same: int
    """Cells that are one and the same row of one database."""
    only_a: pl.DataFrame
    only_b: pl.DataFrame
    """The columns of MATCH."""


def compare_cells(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Compared:
    """Compare every cell that both runs have. `advance` is called with the number of cells done.

    `changed` counts images with another predicted class, `lost` and `gained` those that are right in A only and in B
    only. difference is top1_b - top1_a, p McNemar's. p_holm and p_bh adjust p over all rows.
    """
    mine, theirs = _cells(a), _cells(b)
    matched = mine.join(theirs, on=MATCH, suffix="_b", maintain_order="left")
    one_database = a.store.path.resolve() == b.store.path.resolve()
    same = pl.col("cell") == pl.col("cell_b") if one_database else pl.lit(False)
    rows = [pl.DataFrame(schema=CELLS)]
    for _, group in matched.filter(~same).group_by("checkpoint", "image_set", maintain_order=True):
        rows.append(_compare_group(a, b, group))
        advance(len(group))
    cells = pl.concat(rows, how="diagonal")
    p = cells["p"].fill_null(np.nan).to_numpy()
    cells = cells.with_columns(p_holm=pl.Series(holm(p)), p_bh=pl.Series(benjamini_hochberg(p)))
    return Compared(
        cells.with_columns(pl.col(pl.Float64).fill_nan(None)),
        len(matched.filter(same)),
        mine.join(theirs, on=MATCH, how="anti", maintain_order="left").select(MATCH),
        theirs.join(mine, on=MATCH, how="anti", maintain_order="left").select(MATCH),
    )


def curves(cells: pl.DataFrame) -> pl.DataFrame:
    """One row a checkpoint, image set and probe, of cells as `compare_cells` gives them."""
    largest = pl.col("difference").abs().arg_max()
    return cells.group_by("checkpoint", "image_set", "probe", maintain_order=True).agg(
        conditions=pl.len(),
        different=(pl.col("p_holm") < 0.05).sum(),
        changed=pl.col("changed").sum(),
        lost=pl.col("lost").sum(),
        gained=pl.col("gained").sum(),
        mean_difference=pl.col("difference").mean(),
        largest=pl.col("difference").get(largest),
        at=pl.col("parameters").get(largest),
        p_holm=pl.col("p_holm").min(),
    )


def _cells(run: Run) -> pl.DataFrame:
    found = run.store.frame(
        "SELECT cell.id AS cell, detail.checkpoint, detail.image_set, detail.image_set_id, detail.probe, "
        "detail.parameters::VARCHAR AS parameters, detail.labelled, detail.itself, detail.clean_cell, "
        "model_sha256 AS model, image_set.digest, condition.digest AS condition, cell.engine, cell.precision, "
        "cell.decision_space, cell.seed "
        "FROM study_version AS version JOIN study_cell ON study_cell.study = study_id "
        "JOIN cell_detail AS detail USING (cell) JOIN cell ON cell.id = detail.cell "
        "JOIN checkpoint ON checkpoint.id = checkpoint_id JOIN image_set ON image_set.id = image_set_id "
        "JOIN condition ON condition.id = cell.condition "
        "WHERE version.label = ? ORDER BY detail.checkpoint, detail.image_set, detail.probe, detail.cutoff, "
        "detail.noise_sd, detail.frequency, detail.parameters",
        [run.label],
    )
    doubled = found.filter(found.select(MATCH).is_duplicated())
    if len(doubled):
        which = ", ".join(doubled.select(MATCH).row(0))
        raise UsageError(f"{run.store.path}, {run.label}: {which} is there twice; give each image set its own name")
    return found


def _compare_group(a: Run, b: Run, cells: pl.DataFrame) -> pl.DataFrame:
    """Cells of one checkpoint and image set."""
    images_a, images_b, clusters = _common_images(a, b, cells)
    reasons = [pl.when(pl.col(name) != pl.col(f"{name}_b")).then(pl.lit(words)) for name, words in REASONS.items()]
    words = cells.select(
        *MATCH,
        differs_in=pl.concat_str(reasons, separator=", ", ignore_nulls=True).replace("", None),
        note=_why_not(len(clusters)),
        n=pl.lit(len(clusters), pl.Int64),
    )
    if not len(clusters):
        return words
    predicted_a, right_a = _outcomes(a.store, cells, "", images_a)
    predicted_b, right_b = _outcomes(b.store, cells, "_b", images_b)
    found = paired(right_a, right_b, clusters)
    numbers = {"top1_a": right_a.mean(axis=1), "top1_b": right_b.mean(axis=1)}
    numbers |= {name: getattr(found, name) for name in ("difference", "low", "high", "lost", "gained", "p")}
    return words.with_columns(changed=pl.Series((predicted_a != predicted_b).sum(axis=1))).with_columns(
        pl.when(pl.col("note").is_null()).then(pl.Series(values)).alias(name) for name, values in numbers.items()
    )


def _why_not(n: int) -> pl.Expr:
    """Why accuracies cannot be compared, or null."""
    return (
        pl.when(pl.lit(n == 0))
        .then(pl.lit("no image in common"))
        .when(pl.col("labelled") != pl.col("labelled_b"))
        .then(pl.lit("only one of the runs has labels"))
        .when("itself")
        .then(pl.lit("agrees with itself by definition"))
        .when(~pl.col("labelled") & (pl.col("clean_cell").is_null() | pl.col("clean_cell_b").is_null()))
        .then(pl.lit("no clean prediction to agree with"))
    )


def _common_images(a: Run, b: Run, cells: pl.DataFrame) -> tuple[Whole, Whole, Whole]:
    """(image_index in A, image_index in B, cluster in A) of the images that both sets have, by path."""
    query = "SELECT path, image_index, cluster FROM image WHERE image_set = ? ORDER BY image_index"
    first = cells.row(0, named=True)
    mine = a.store.frame(query, [first["image_set_id"]])
    if first["digest"] == first["digest_b"]:
        both = mine.with_columns(image_index_b="image_index")
    else:
        theirs = b.store.frame(query, [first["image_set_id_b"]])
        unique = [images.filter(pl.col("path").is_unique()) for images in (mine, theirs)]
        both = unique[0].join(unique[1], on="path", suffix="_b", maintain_order="left")
    index_a, index_b, cluster = (both[name].to_numpy() for name in ("image_index", "image_index_b", "cluster"))
    return index_a.astype(np.int64), index_b.astype(np.int64), cluster.astype(np.int64)


def _outcomes(store: Store, cells: pl.DataFrame, suffix: str, images: Whole) -> tuple[NDArray[np.uint16], Mask]:
    """(predicted, right), each (cells, images): against the label, or else the clean prediction if there is one."""
    own, clean = cells[f"cell{suffix}"], cells[f"clean_cell{suffix}"]
    ids = pl.concat([own, clean]).drop_nulls().unique().sort()
    stored = store.frame(
        "SELECT predicted, label_rank FROM prediction WHERE cell IN (SELECT unnest(?::INTEGER[])) "
        "ORDER BY cell, image_index",
        [ids.to_list()],
    )
    every = stored["predicted"].to_numpy().reshape(len(ids), -1)[:, images]
    place = ids.search_sorted(own).to_numpy()
    predicted = every[place]
    if cells[f"labelled{suffix}"][0]:
        rank = stored["label_rank"].to_numpy().reshape(len(ids), -1)
        return predicted, rank[:, images][place] == 0
    return predicted, predicted == every[ids.search_sorted(clean.fill_null(ids[0])).to_numpy()]
