"""Logits to the three small columns that are kept."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ..probes.arrays import Array
from ..probes.kernels import launch


def reduce_logits(xp: ModuleType, logits: Array, labels: Array | None) -> tuple[Array, Array | None, Array]:
    """(predicted uint16, label_rank uint16 or None, confidence float32), each (n,), of (n, classes) float32 logits.

    predicted is the argmax, lowest index first; label_rank the number of classes scored above the label plus the equal
    ones of lower index; confidence the softmax probability of the predicted class, or NaN where a logit of the row is
    not finite. Every row is reduced by itself.
    """
    if xp is np:
        return reduce_in_arrays(xp, logits, labels)
    rows, classes = logits.shape
    predicted, confidence = xp.empty(rows, dtype=xp.uint16), xp.empty(rows, dtype=xp.float32)
    rank = None
    if labels is not None:
        rank, labels = xp.empty(rows, dtype=xp.uint16), labels.astype(xp.int32, copy=False)
    launch("reduce_logits", (rows, 1), predicted, rank, confidence, logits, labels, classes, rows)
    return predicted, rank, confidence


def reduce_in_arrays(xp: ModuleType, logits: Array, labels: Array | None) -> tuple[Array, Array | None, Array]:
    """`reduce_logits` in array code."""
    predicted = logits.argmax(axis=1)
    finite = xp.isfinite(logits).all(axis=1)
    safe = xp.where(finite[:, None], logits, xp.float32(0))
    confidence = 1 / xp.exp(safe - safe.max(axis=1, keepdims=True)).sum(axis=1)
    confidence = xp.where(finite, confidence, xp.float32(xp.nan))
    rank = None if labels is None else _rank(xp, logits, labels).astype(xp.uint16)
    return predicted.astype(xp.uint16), rank, confidence.astype(xp.float32)


def _rank(xp: ModuleType, logits: Array, labels: Array) -> Array:
    score = xp.take_along_axis(logits, labels[:, None], axis=1)
    lower = xp.arange(logits.shape[1])[None, :] < labels[:, None]
    return ((logits > score) | ((logits == score) & lower)).sum(axis=1)
