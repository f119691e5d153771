"""Error consistency of every two subjects, models and people, that judged the same images: the view `judgement`.

The numbers are those of `statistics.consistency`, for each condition of a stimulus set alone: over several conditions
two subjects agree on which are hard, whatever they share on any of them (Geirhos, Meding & Wichmann 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...errors import UnknownName
from ..database.store import Store
from ..statistics.consistency import Consistency, error_consistency

PAIR_KEYS = ("images", "condition", "first_subject", "second_subject", "humans")
SCHEMA = {
    **dict.fromkeys(PAIR_KEYS[:4], pl.String),
    "humans": pl.Int32,
    "n": pl.Int64,
    **{name: pl.Float64 for name in Consistency.__slots__ if name != "n"},
}
UNSEEN = -1


def judged_images(store: Store, study: str = "*") -> list[str]:
    """The images, by their names in `judgement`, that a study ran unperturbed and has labels of; no corruptions.

    A version that is not the newest has those that the newest still has.
    """
    judged = store.frame(
        "SELECT DISTINCT images FROM judged_cell_of('*') "
        "SEMI JOIN (FROM study_detail_of(?) WHERE corruption IS NULL) AS mine USING (study, image_set_id) ORDER BY 1",
        [study],
    )
    return judged["images"].to_list()


def consistencies(store: Store, images: str, resamples: int = 1000) -> pl.DataFrame:
    """The columns of SCHEMA: every two subjects that judged images of one condition, people first, NaN as null.

    `images` is a stimulus set that people saw, or else an image set. Raises UnknownName where nobody judged it.
    """
    judged = store.frame(
        "SELECT condition, image, cluster, subject, human, correct FROM judgement WHERE images = ? "
        "ORDER BY condition, NOT human, subject",
        [images],
    )
    if judged.is_empty():
        listed = store.frame(
            "SELECT DISTINCT images FROM judgement UNION SELECT stimulus_set FROM human_trial ORDER BY 1"
        )
        raise UnknownName("image set", images, listed.to_series().to_list())
    rows: list[dict[str, Any]] = []
    for (condition,), answers in judged.group_by("condition", maintain_order=True):
        who, right, clusters = _by_subject(answers)
        for first, second in combinations(range(len(who)), 2):
            both = (right[first] != UNSEEN) & (right[second] != UNSEEN)
            if both.any():
                a, b = right[first, both] == 1, right[second, both] == 1
                consistency = error_consistency(a, b, None if clusters is None else clusters[both], resamples)
                names = (images, condition, who[first][0], who[second][0], who[first][1] + who[second][1])
                rows.append(
                    dict(zip(PAIR_KEYS, names, strict=True))
                    | {name: getattr(consistency, name) for name in Consistency.__slots__}
                )
    return pl.DataFrame(rows, SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def _by_subject(
    judged: pl.DataFrame,
) -> tuple[list[tuple[str, bool]], NDArray[np.int8], NDArray[np.int64] | None]:
    """(name, human) of the subjects; (subjects, images) right 1, wrong 0, or UNSEEN; clusters of the images, if any."""
    subjects = judged.select("subject", "human").unique(maintain_order=True).with_row_index("row")
    images = judged.group_by("image", maintain_order=True).agg(pl.col("cluster").max()).with_row_index("column")
    placed = judged.join(subjects, on=["subject", "human"]).join(images.drop("cluster"), on="image")
    right = np.full((len(subjects), len(images)), UNSEEN, np.int8)
    right[placed["row"].to_numpy(), placed["column"].to_numpy()] = placed["correct"].to_numpy()
    # An image that no model saw is in no cluster and stands for itself.
    cluster = images.select(pl.coalesce(pl.col("cluster").cast(pl.Int64), -1 - pl.col("column").cast(pl.Int64)))
    clusters = cluster.to_series().to_numpy()
    alone = len(np.unique(clusters)) == len(clusters)
    return subjects.select("subject", "human").rows(), right, None if alone else clusters


def write_consistencies(
    store: Store, images: list[str], resamples: int = 1000, advance: Callable[[float], None] = lambda _: None
) -> None:
    """Compute error consistency on each of `images` and keep it in the table error_consistency."""
    for name in images:
        store.write_consistencies(name, consistencies(store, name, resamples))
        advance(1)


def mean_consistencies(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The mean kappa between humans, and of each model to humans, over pairs and conditions.

    Rows of subject, pairs, kappa to humans, lowest, highest.
    """
    mixed = table.filter(pl.col("humans") == 1)
    groups = {"humans": table.filter(pl.col("humans") == 2)}
    groups |= {str(name): pairs for (name,), pairs in mixed.group_by("second_subject", maintain_order=True)}
    return [
        {
            "subject": name,
            "pairs": pairs.select("first_subject", "second_subject").n_unique(),
            "kappa to humans": pairs["kappa"].mean(),
            "lowest": pairs["kappa"].min(),
            "highest": pairs["kappa"].max(),
        }
        for name, pairs in groups.items()
    ]
