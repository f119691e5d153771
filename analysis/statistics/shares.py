"""Means of accuracies over image sets that may show the same clusters, with intervals.

Let w_i be the weight of image i in a mean, such as 1 / (sets x images of its set), p_i the accuracy of its set, and y_i
whether it is right. A cluster u adds d_u = sum of w_i (y_i - p_i) over the images that show it to the error of the
mean, whichever sets they are in; clusters are independent of each other. So the variance is

    V = sum d_u^2 * C / (C - 1)            C clusters; without C / (C - 1) where each is shown once

This is the delta method, the cluster-robust variance of Liang & Zeger 1986; at least what it would be if all images
were independent. `wilson` makes the interval of it, which for a single set is that of the view `accuracy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from .arrays import Floats, Mask, Whole, Z
from .wilson import clustered_interval


@dataclass(frozen=True, slots=True)
class Share:
    """A share of right answers, or a mean of such shares."""

    value: float
    images: int
    """n: how often an image was judged."""
    clusters: Whole
    """(C,), ascending."""
    deviations: Floats
    """(C,): d_u."""
    independent: float
    """V if no two images showed one cluster."""


def share_of(right: Mask, clusters: Whole) -> Share:
    """The share of one set: whether each of n images is right, and which cluster it shows; (n,) each."""
    value = float(right.mean())
    found, place = np.unique(clusters, return_inverse=True)
    deviations = np.bincount(place, weights=right - value) / len(right)
    return Share(value, len(right), found, deviations, value * (1 - value) / len(right))


def mean_of(shares: Sequence[Share]) -> Share:
    """The mean of shares, each with the same weight."""
    found, place = np.unique(np.concatenate([one.clusters for one in shares]), return_inverse=True)
    deviations = np.bincount(place, weights=np.concatenate([one.deviations for one in shares])) / len(shares)
    return Share(
        sum(one.value for one in shares) / len(shares),
        sum(one.images for one in shares),
        found,
        deviations,
        sum(one.independent for one in shares) / len(shares) ** 2,
    )


def share_interval(share: Share) -> tuple[float, float]:
    """Its 95 % interval."""
    value, independent = np.array(share.value), np.array(share.independent)
    low, high, _ = clustered_interval(value, share.deviations, independent, share.images)
    return float(low), float(high)


def ratio_interval(right: Mask, clean: Mask, clusters: Whole) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of right / clean, the ratio of two shares of one set's n images; (n,) each.

    Here d_u = sum of (right - ratio clean) / (n share of clean). No interval where either is never right, or with one
    cluster.
    """
    if not right.any() or not clean.any():
        return None, None
    ratio = right.sum() / clean.sum()
    found, place = np.unique(clusters, return_inverse=True)
    deviations = np.bincount(place, weights=right - ratio * clean) / clean.sum()
    if len(found) == 1:
        return None, None
    half = Z * sqrt((deviations**2).sum() * len(found) / (len(found) - 1))
    return max(0.0, float(ratio - half)), float(ratio + half)
