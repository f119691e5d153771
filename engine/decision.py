"""From the logits of 1000 classes to scores of the classes that a decision is made between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..probes.arrays import Array
from ..probes.decision_spaces import NAMES, decision_space
from .streams import finish

ALL = NAMES[0]
"""The space of every model's own classes: its scores are the logits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How one space decides, on one array module."""

    xp: ModuleType
    space: str

    def scores(self, logits: Array) -> Array:
        """(n, k) float32 of (n, 1000) float32 logits: the largest score decides, and their softmax is the confidence.

        A class with several members has the logarithm of the mean of their softmax probabilities, up to a constant of
        the row: the decision of Geirhos et al. 2019.
        """
        if self.space == ALL:
            return logits
        chosen, means = _operators(self.xp, self.space)
        xp = self.xp
        members = xp.take(logits, chosen, axis=1)
        if means is None:
            return members
        exact = members.astype(xp.float64)
        shares = xp.exp(exact - exact.max(axis=1, keepdims=True)) @ means
        # Below this, classes are equally out of the question; a score stays finite, and NaN stays NaN.
        return xp.log(xp.maximum(shares, 1e-300)).astype(xp.float32)

    def places(self, labels: NDArray[np.int32] | None) -> Array | None:
        """Labels, as numbers of the space's classes, to places among its scores."""
        if labels is None:
            return None
        if self.space == ALL:
            return self.xp.asarray(labels)
        return self.xp.asarray(np.searchsorted(decision_space(self.space).ids, labels).astype(np.int32))

    def classes(self, places: Array) -> Array:
        """Places among the scores to numbers of classes, uint16."""
        return places if self.space == ALL else _ids(self.xp, self.space)[places]


@cache
def _operators(xp: ModuleType, name: str) -> tuple[Array, Array | None]:
    """The m logits that count; and where classes have several, the (m, k) float64 matrix of means over them."""
    members = decision_space(name).members
    chosen = np.concatenate(members)
    if len(chosen) == len(members):
        return _kept(xp, chosen), None
    means = np.zeros((len(chosen), len(members)))
    sizes = [len(indices) for indices in members]
    means[np.arange(len(chosen)), np.repeat(np.arange(len(members)), sizes)] = np.repeat(1 / np.array(sizes), sizes)
    return _kept(xp, chosen), _kept(xp, means)


@cache
def _ids(xp: ModuleType, name: str) -> Array:
    return _kept(xp, np.array(decision_space(name).ids, np.uint16))


def _kept(xp: ModuleType, array: NDArray[Any]) -> Array:
    """A copy that any stream may read from now on."""
    copy = xp.asarray(array)
    finish(xp)
    return copy
