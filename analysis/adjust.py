"""p-values adjusted for the number of tests in a family. NaN is a test that was not made, and does not count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def holm(p: Floats) -> Floats:
    """Holm 1979: the chance of any false discovery stays below alpha, whatever the dependence of the tests.

    adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= … <= p_(m)
    """
    return _adjusted(p, lambda ordered, rank: np.maximum.accumulate((len(ordered) - rank + 1) * ordered))


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini & Hochberg 1995: the expected share of false ones among the discoveries stays below alpha.

    adjusted_(i) = min over j >= i of min(1, m p_(j) / j); for tests that are independent or positively dependent.
    """
    return _adjusted(p, lambda ordered, rank: np.minimum.accumulate((len(ordered) * ordered / rank)[::-1])[::-1])


def _adjusted(p: Floats, rule: Callable[[Floats, Floats], Floats]) -> Floats:
    """Apply the rule, which is given ascending p-values and their ranks from 1."""
    made = np.flatnonzero(~np.isnan(p))
    made = made[np.argsort(p[made], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[made] = np.minimum(1, rule(p[made], np.arange(1.0, len(made) + 1)))
    return adjusted
