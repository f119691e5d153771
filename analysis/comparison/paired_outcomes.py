"""Outcomes of two runs, paired image by image, for `compare` and for gates of precisions and releases.

Images are matched by position if the two image sets have the same digest, and by path otherwise. With labels, a
prediction is correct if it is the label. Without labels, it is correct if it equals the clean prediction of the same
run. Clean images without labels would agree with themselves by definition. For them, the clean predictions of A are
the reference of both runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.errors import UsageError
from ..database.store import Store
from ..metrics.predictions import PredictionReader
from ..statistics import Ints, Mask
from ..statistics.chance_agreement import MatchedAnswers
from ..statistics.proportions import AT_FLOOR

Classes = NDArray[np.uint16]
NO_COMMON_IMAGE = "no image in common"
ONE_IS_LABELED = "only one of the runs has labels"
SELF_REFERENCE = "agrees with itself by definition"
NO_CLEAN_PREDICTION = "no clean prediction to agree with"
IMAGES = """
SELECT path, image_index, cluster, label FROM image LEFT JOIN (
    SELECT image_set, image_index, array_to_string(list_sort(list(DISTINCT class)), ';') AS label
    FROM label WHERE own_scheme(scheme) OR scheme = 'several' GROUP BY ALL
) USING (image_set, image_index)
WHERE image_set = ? ORDER BY image_index
"""
"""Images of a set. The classes of each image are joined in one string."""


@dataclass(frozen=True)
class PairedOutcomes:
    """Pairs of cells of one checkpoint and image set, on the n images that both sets have."""

    images_a: Ints
    """image_index in the image set of A, (n,)."""
    images_b: Ints
    """image_index of the same images in the image set of B, (n,)."""
    clusters: Ints
    """Clusters, (n,). Images with the same number are not independent."""
    predicted_a: Classes
    """Predicted class, (pairs, n)."""
    predicted_b: Classes
    clean_a: Classes | None
    """Clean prediction that a prediction has to equal, (pairs, n). None with labels. If a cell has no clean cell, its
    own predictions are here and `reason` is set."""
    clean_b: Classes | None
    correct_a: Mask
    """Whether the prediction is correct, (pairs, n)."""
    correct_b: Mask
    reason: pl.Series
    """Why the accuracies of a pair cannot be compared, (pairs,): one of the constants above, or null if they can."""

    @cached_property
    def changed(self) -> Mask:
        """Whether the predicted classes differ, (pairs, n)."""
        return np.asarray(self.predicted_a != self.predicted_b)

    @cached_property
    def at_chance(self) -> Mask:
        """Whether neither run agrees with its clean predictions above chance, (pairs,). See `chance_agreement`."""
        return self._at_chance(self.predicted_a, self.clean_a) & self._at_chance(self.predicted_b, self.clean_b)

    def _at_chance(self, predicted: Classes, clean: Classes | None) -> Mask:
        if clean is None:
            return np.zeros(len(predicted), np.bool_)
        cluster_ids = np.unique(self.clusters, return_inverse=True)[1]
        p = [
            MatchedAnswers((row == reference)[None], row[None], reference, 0.0, cluster_ids).p
            for row, reference in zip(predicted.astype(np.int64), clean.astype(np.int64), strict=True)
        ]
        return np.array(p) > AT_FLOOR


def read_paired_outcomes(a: PredictionReader, b: PredictionReader, pairs: pl.DataFrame) -> PairedOutcomes:
    """Read cells of `a` and cells of `b` on the images that both have.

    Args:
        a: Reader of the database of A.
        b: Reader of the database of B. The same object if both runs are in one database.
        pairs: Pairs of cells of one checkpoint and image set. The columns are cell, clean_cell, image_set_id, labelled
            and itself of cell_detail, the digest of the image set, and the same with the suffix _b for `b`. If the
            digests differ, image_set (name of the set), decision_space and decision_space_b are also needed.

    Raises:
        UsageError: If an image has different labels in the two image sets.
    """
    images_a, images_b, clusters = _common_images(a.store, b.store, pairs)
    predicted_a, clean_a, correct_a = _read_side(a, pairs, "", images_a)
    predicted_b, clean_b, correct_b = _read_side(b, pairs, "_b", images_b)
    if clean_b is not None:
        is_self_reference = pairs["itself"].to_numpy()
        clean_b[is_self_reference] = predicted_a[is_self_reference]
        correct_b = predicted_b == clean_b
    reason = pairs.select(
        pl.when(pl.lit(not len(clusters)))
        .then(pl.lit(NO_COMMON_IMAGE))
        .when(pl.col("labelled") != pl.col("labelled_b"))
        .then(pl.lit(ONE_IS_LABELED))
        .when("itself")
        .then(pl.lit(SELF_REFERENCE))
        .when(~pl.col("labelled") & (pl.col("clean_cell").is_null() | pl.col("clean_cell_b").is_null()))
        .then(pl.lit(NO_CLEAN_PREDICTION))
    ).to_series()
    return PairedOutcomes(
        images_a, images_b, clusters, predicted_a, predicted_b, clean_a, clean_b, correct_a, correct_b, reason
    )


def _read_side(
    reader: PredictionReader, pairs: pl.DataFrame, suffix: str, images: Ints
) -> tuple[Classes, Classes | None, Mask]:
    """Return the predicted class, the clean prediction and whether the former is correct, (pairs, images) each."""
    cells = pairs[f"cell{suffix}"]
    clean_cells = pairs[f"clean_cell{suffix}"].fill_null(cells)
    if pairs[f"labelled{suffix}"][0]:
        decisions = reader.decisions(cells)
        predicted = np.stack([cell.predicted[images] for cell in decisions])
        return predicted, None, np.stack([np.asarray(cell.rank)[images] == 0 for cell in decisions])
    reader.decisions([*cells, *clean_cells])  # reads both in one query and caches them
    predicted, clean = (
        np.stack([cell.predicted[images] for cell in reader.decisions(ids)]) for ids in (cells, clean_cells)
    )
    return predicted, clean, predicted == clean


def _common_images(a: Store, b: Store, pairs: pl.DataFrame) -> tuple[Ints, Ints, Ints]:
    """Return image_index in A, image_index in B and cluster in A of the images that both sets have.

    Raises UsageError if the labels of one of these images differ, including additional correct classes, because
    correctness would then mean different things in the two runs.
    """
    first = pairs.row(0, named=True)
    images_a = a.frame(IMAGES, [first["image_set_id"]])
    if first["digest"] == first["digest_b"]:
        images = images_a.with_columns(image_index_b="image_index")
    else:
        images_b = b.frame(IMAGES, [first["image_set_id_b"]])
        unique = [side.filter(pl.col("path").is_unique()) for side in (images_a, images_b)]
        images = unique[0].join(unique[1], on="path", suffix="_b", maintain_order="left")
        # In different decision spaces, the same class index is a different class. `differs_in` then mentions the
        # decision space, and no error is raised.
        conflicts = images.filter(pl.col("label") != pl.col("label_b"))
        if len(conflicts) and first["decision_space"] == first["decision_space_b"]:
            path, label, label_b = conflicts.select("path", "label", "label_b").row(0)
            raise UsageError(
                f"image set {first['image_set']}: {path} has label {label} in A and {label_b} in B, the first "
                f"of {len(conflicts)} of {len(images)} images in common whose labels differ; pack both with the same "
                "labels"
            )
    index_a, index_b, cluster = (images[name].to_numpy() for name in ("image_index", "image_index_b", "cluster"))
    return index_a.astype(np.int64), index_b.astype(np.int64), cluster.astype(np.int64)
