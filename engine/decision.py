"""Turn logits into predictions: compute the scores of the decision space and reduce them to the stored columns."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..core.protocol import SPACE_CLASSES
from ..core.records import UNKNOWN_RANK
from ..probes.arrays import Array, launch
from ..probes.images.decision_spaces import NAMES, decision_space

ALL_SPACE = NAMES[0]
"""Decision space that consists of the model's own classes. Its scores are the logits."""


def decides_by_logits(space: str) -> bool:
    """Return whether the scores of a decision space are the logits.

    In every other space the scores are computed from the logits of the 1000 ImageNet classes.
    """
    return space not in SPACE_CLASSES


class Decision:
    """A decision space on one array module. It converts logits to scores."""

    def __init__(self, xp: ModuleType, space: str) -> None:
        self.xp, self.by_logits = xp, decides_by_logits(space)
        if self.by_logits:
            return
        classes, members = decision_space(space).ids, decision_space(space).members
        self._ids, self._ids_on_device = classes, xp.asarray(np.array(classes, np.uint16))
        sizes = [len(class_members) for class_members in members]
        self._logit_indices = xp.asarray(np.concatenate(members))
        self._means: Array | None = None
        """(m, k) float64 matrix that averages m members' probabilities per class.

        None if each of the k classes has one member.
        """
        if max(sizes) > 1:
            means = np.zeros((sum(sizes), len(sizes)))
            means[np.arange(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes)] = np.repeat(
                1 / np.array(sizes), sizes
            )
            self._means = xp.asarray(means)

    def scores(self, logits: Array) -> Array:
        """Compute the scores of the classes of the decision space.

        The class with the largest score is predicted, and the softmax of the scores is its confidence. A class with
        several ImageNet members has the logarithm of the mean of their softmax probabilities as its score, up to a
        constant per row. This is the decision rule of Geirhos et al. 2019.

        Args:
            logits: (n, 1000) float32.

        Returns:
            (n, k) float32 scores.
        """
        if self.by_logits:
            return logits
        xp = self.xp
        members = xp.take(logits, self._logit_indices, axis=1)
        if self._means is None:
            return members
        exact = members.astype(xp.float64)
        shares = xp.exp(exact - exact.max(axis=1, keepdims=True)) @ self._means
        # The lower bound prevents log(0) = -inf. Classes below it are all equally improbable, so their order does not
        # matter. NaN stays NaN.
        return xp.log(xp.maximum(shares, 1e-300)).astype(xp.float32)

    def score_indices(self, labels: NDArray[np.int32] | None) -> Array | None:
        """Convert labels, as class numbers of the space, to column indices of its scores."""
        if labels is None or self.by_logits:
            return None if labels is None else self.xp.asarray(labels)
        return self.xp.asarray(np.searchsorted(self._ids, labels).astype(np.int32))

    def classes(self, score_indices: Array) -> Array:
        """Convert column indices of the scores to class numbers of the space, uint16."""
        return score_indices if self.by_logits else self._ids_on_device[score_indices]


# Reduce scores to the columns that are stored


Reduced = tuple[Array, Array | None, Array, Array | None]
"""The columns predicted, label_rank, confidence and label_probability."""


def reduce_logits(xp: ModuleType, logits: Array, labels: Array | None) -> Reduced:
    """Reduce logits to the stored columns. Each row is reduced independently of the others.

    Args:
        xp: NumPy or CuPy.
        logits: (n, classes) float32.
        labels: (n,) column indices of the labels, or None.

    Returns:
        Four arrays of shape (n,).

        predicted, uint16: The argmax. Ties go to the lowest index.

        label_rank, uint16: The number of classes that score above the label, plus equal ones with a lower index. None
            without labels.

        confidence, float32: The softmax probability of the predicted class. NaN if a logit of the row is not finite.

        label_probability, float32: The softmax probability of the label. NaN if a logit of the row is not finite, and
            None without labels.
    """
    if xp is np:
        return reduce_in_arrays(xp, logits, labels)
    rows, classes = logits.shape
    predicted, confidence = xp.empty(rows, dtype=xp.uint16), xp.empty(rows, dtype=xp.float32)
    rank = probability = None
    if labels is not None:
        rank, probability = xp.empty(rows, dtype=xp.uint16), xp.empty(rows, dtype=xp.float32)
        labels = labels.astype(xp.int32, copy=False)
    columns = predicted, rank, confidence, probability
    launch("reduce_logits", (32 * rows, 1), *columns, logits, labels, classes, rows)
    return columns


def best_class(xp: ModuleType, scores: Array, accepted: Array) -> Array:
    """Return the best-ranked of several correct classes of each image, (n,) int32. It is 0 for images without any.

    Args:
        xp: NumPy or CuPy.
        scores: (n, classes) float32.
        accepted: (n, k) int32, the correct classes of each image in ascending order, padded with -1.
    """
    is_label, classes = accepted >= 0, xp.maximum(accepted, 0)
    # The correct class with the highest score has the lowest rank. Among equal scores argmax returns the first, which
    # is the one with the lowest index, as in the definition of the rank.
    place = xp.where(is_label, xp.take_along_axis(scores, classes, axis=1), xp.float32(-xp.inf)).argmax(axis=1)
    return xp.take_along_axis(classes, place[:, None], axis=1)[:, 0]


def best_rank(xp: ModuleType, scores: Array, accepted: Array) -> Array:
    """Return the label_rank of the `best_class`, (n,) uint16.

    It is UNKNOWN_RANK for images without any correct class.
    """
    rank = reduce_logits(xp, scores, best_class(xp, scores, accepted))[1]
    return xp.where(accepted[:, 0] >= 0, rank, xp.uint16(UNKNOWN_RANK))


def reduce_in_arrays(xp: ModuleType, logits: Array, labels: Array | None) -> Reduced:
    """Implement `reduce_logits` with array operations instead of a CUDA kernel."""
    finite = xp.isfinite(logits).all(axis=1)
    safe = xp.where(finite[:, None], logits, xp.float32(0))
    parts = xp.exp(safe - safe.max(axis=1, keepdims=True))
    total = xp.where(finite, parts.sum(axis=1), xp.float32(xp.nan))
    predicted, confidence = logits.argmax(axis=1).astype(xp.uint16), (1 / total).astype(xp.float32)
    if labels is None:
        return predicted, None, confidence, None
    probability = (xp.take_along_axis(parts, labels[:, None], axis=1)[:, 0] / total).astype(xp.float32)
    score = xp.take_along_axis(logits, labels[:, None], axis=1)
    lower = xp.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = ((logits > score) | ((logits == score) & lower)).sum(axis=1).astype(xp.uint16)
    return predicted, rank, confidence, probability
