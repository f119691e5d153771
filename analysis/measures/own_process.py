"""The part of a user's own measure that runs in its process: the function is called, and its answer is checked.

The module is light to import, since the process begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ..statistics.arrays import Floats
from ..statistics.images import FEWEST_CLUSTERS

RESAMPLES = 200
"""Resamples of clusters for the interval of a number: each calls the function again."""


class Answer(NamedTuple):
    """The answer of a function for one cell."""

    value: float | None
    """A number of the whole cell."""
    values: Floats | None
    """(n,): a number of every image."""
    drawn: Floats
    """(RESAMPLES,): the number of the cell in resamples of its clusters; empty with few clusters."""


def answer_of_cell(
    function: Callable[..., Any],
    what: str,
    arrays: Mapping[str, Any],
    clusters: NDArray[np.int64],
    settings: Mapping[str, Any],
) -> Answer:
    """Call the user's function on a cell, and on resamples of its clusters if it gives one number.

    Raises UsageError where the result is neither a finite number nor one of every image.
    """
    result = np.asarray(function(**_copied(arrays), **settings))
    if result.dtype.kind not in "fiub":
        raise UsageError(f"{what} returned {result.dtype} values; expected numbers")
    count = len(clusters)
    if result.shape not in ((), (count,)):
        raise UsageError(f"{what} returned an array of shape {result.shape}; expected a number, or shape ({count},)")
    if not np.isfinite(result).all():
        raise UsageError(f"{what} returned {result if result.ndim == 0 else 'NaN or an infinite number'}")
    if result.ndim:
        return Answer(None, result.astype(np.float64), np.zeros(0))
    return Answer(float(result), None, _resampled(function, arrays, clusters, settings))


def _resampled(
    function: Callable[..., Any], arrays: Mapping[str, Any], clusters: NDArray[np.int64], settings: Mapping[str, Any]
) -> Floats:
    """(RESAMPLES,) numbers of resampled clusters, NaN where the function fails; empty with few clusters."""
    _, ids = np.unique(clusters, return_inverse=True)
    order, sizes = np.argsort(ids, kind="stable"), np.bincount(ids)
    if len(sizes) < FEWEST_CLUSTERS:
        return np.zeros(0)
    members = np.split(order, np.cumsum(sizes)[:-1])
    rng, drawn = np.random.default_rng(0), np.full(RESAMPLES, np.nan)
    for row in range(RESAMPLES):
        index = np.concatenate([members[cluster] for cluster in rng.integers(len(sizes), size=len(sizes))])
        chosen = {name: array[index] if isinstance(array, np.ndarray) else array for name, array in arrays.items()}
        with suppress(Exception):  # a resample without what the function needs has no number
            drawn[row] = function(**chosen, **settings)
    return drawn


def _copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays for the function to change at will: those it was sent serve its resamples, too."""
    return {name: array.copy() if isinstance(array, np.ndarray) else array for name, array in arrays.items()}
