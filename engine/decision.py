"""From logits to a decision: scores of the classes that it is made between, and the columns that are kept of them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..core.protocol import SPACE_CLASSES
from ..core.records import UNKNOWN_RANK
from ..probes.arrays import Array, launch
from ..probes.images.decision_spaces import NAMES, decision_space

ALL_SPACE = NAMES[0]
"""The space of every model's own classes: its scores are the logits."""


def decides_by_logits(space: str) -> bool:
    """Whether the scores of a decision space are the logits: they are made of those of 1000 classes in any other."""
    return space not in SPACE_CLASSES


class Decision:
    """A decision space on one array module: it makes scores of logits."""

    def __init__(self, xp: ModuleType, space: str) -> None:
        self.xp, self.by_logits = xp, decides_by_logits(space)
        if self.by_logits:
            return
        classes, members = decision_space(space).ids, decision_space(space).members
        self._ids, self._ids_on_device = classes, xp.asarray(np.array(classes, np.uint16))
        sizes = [len(class_members) for class_members in members]
        self._logit_indices = xp.asarray(np.concatenate(members))
        self._means: Array | None = None
        """(m, k) float64: means over the m logits that count, where one of the k classes has several."""
        if max(sizes) > 1:
            means = np.zeros((sum(sizes), len(sizes)))
            means[np.arange(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes)] = np.repeat(
                1 / np.array(sizes), sizes
            )
            self._means = xp.asarray(means)

    def scores(self, logits: Array) -> Array:
        """(n, k) float32 of (n, 1000) float32 logits: the largest score decides, and their softmax is the confidence.

        A class with several members has the logarithm of the mean of their softmax probabilities, up to a constant of
        the row: the decision of Geirhos et al. 2019.
        """
        if self.by_logits:
            return logits
        xp = self.xp
        members = xp.take(logits, self._logit_indices, axis=1)
        if self._means is None:
            return members
        exact = members.astype(xp.float64)
        shares = xp.exp(exact - exact.max(axis=1, keepdims=True)) @ self._means
        # The bound keeps scores finite; classes below it are equally out of the question, and NaN stays NaN.
        return xp.log(xp.maximum(shares, 1e-300)).astype(xp.float32)

    def score_indices(self, labels: NDArray[np.int32] | None) -> Array | None:
        """Labels, as numbers of the space's classes, to indices of its scores."""
        if labels is None or self.by_logits:
            return None if labels is None else self.xp.asarray(labels)
        return self.xp.asarray(np.searchsorted(self._ids, labels).astype(np.int32))

    def classes(self, score_indices: Array) -> Array:
        """Indices of scores to numbers of classes, uint16."""
        return score_indices if self.by_logits else self._ids_on_device[score_indices]


# The small columns that are kept of the scores


Reduced = tuple[Array, Array | None, Array, Array | None]
"""The columns predicted, label_rank, confidence and label_probability."""


def reduce_logits(xp: ModuleType, logits: Array, labels: Array | None) -> Reduced:
    """(predicted uint16, label_rank uint16, confidence float32, label_probability float32), each (n,).

    logits are (n, classes) float32. predicted is the argmax, lowest index first; label_rank the number of classes
    scored above the label plus the equal ones of lower index; confidence and label_probability the softmax
    probabilities of the predicted class and of the label, or NaN where a logit of the row is not finite. The rank and
    the probability of the label are None without labels. Every row is reduced by itself.
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
    """(n,) int32: of several right classes the one with the least label_rank; 0 for an image without any.

    `accepted` is (n, k) int32, the right classes of each image ascending, then -1.
    """
    is_label, classes = accepted >= 0, xp.maximum(accepted, 0)
    # The right class with the highest score, of equal ones the first, is the one that the fewest others precede.
    place = xp.where(is_label, xp.take_along_axis(scores, classes, axis=1), xp.float32(-xp.inf)).argmax(axis=1)
    return xp.take_along_axis(classes, place[:, None], axis=1)[:, 0]


def best_rank(xp: ModuleType, scores: Array, accepted: Array) -> Array:
    """(n,) uint16: the label_rank of the `best_class`; UNKNOWN_RANK for an image without any."""
    rank = reduce_logits(xp, scores, best_class(xp, scores, accepted))[1]
    return xp.where(accepted[:, 0] >= 0, rank, xp.uint16(UNKNOWN_RANK))


def reduce_in_arrays(xp: ModuleType, logits: Array, labels: Array | None) -> Reduced:
    """`reduce_logits` in array code."""
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
