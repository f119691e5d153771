"""Accuracies that cannot be told from those of a blind guess.

An accuracy p over n independent images is within chance, c = 1 / K for K classes, where

    p - c <= 2.576 sqrt(c (1 - c) / n)

which is where Wilson's 99 % interval reaches c. Clusters count by the effective number of `wilson`.
"""

from __future__ import annotations

from math import sqrt

from .shares import Share, wilson_intervals

Z_99 = 2.5758293035489004
"""The 99.5 % quantile of the standard normal distribution."""


def within_chance(share: Share, chance: float) -> bool:
    """Whether a share of right answers is no greater than blind guesses of a rate `chance`, in [0, 1), may give."""
    *_, [effective] = wilson_intervals([share])
    return share.value - chance <= Z_99 * sqrt(chance * (1 - chance) / effective)
