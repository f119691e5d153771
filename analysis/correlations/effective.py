"""Effective robustness: accuracy under a shift, less what accuracy without it lets one expect (Taori et al. 2020).

    probit(y) = slope probit(x) + intercept           least squares over the models of a baseline
    effective = y - 100 Phi(slope probit(x) + intercept)     points

x is the accuracy on ImageNet and y that under the shift, in percent; probit(p) = Phi^-1(p / 100). On these axes the
models of a baseline lie on a line (Miller et al. 2021). A model without a probit, of 0 or 100 %, is not on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from ...errors import UsageError
from ..statistics.arrays import Floats
from ..statistics.coefficients import coefficients

FEWEST = 3
"""Models that a line needs: two are on one whatever they are."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through the accuracies of a baseline's models, on probit axes."""

    slope: float
    intercept: float
    r2: float
    """Share of the variance of probit(y) that the line has."""
    spearman: float
    """The coefficient of x and y, which no change of axes alters."""
    n: int

    def expected(self, x: ArrayLike) -> Floats:
        """The accuracy under the shift, in percent, that a model of the baseline with accuracy x would have."""
        return np.asarray(100 * ndtr(self.slope * _probit(x) + self.intercept), np.float64)


def fit_line(x: ArrayLike, y: ArrayLike) -> Line:
    """The line of accuracies x and y in percent, (n,) each; NaN or 0 or 100 in either leaves the model out.

    Raises UsageError for accuracies outside 0 to 100, or fewer than three models.
    """
    first, second = _probit(x), _probit(y)
    finite = np.isfinite(first) & np.isfinite(second)
    if finite.sum() < FEWEST:
        raise UsageError(f"effective robustness: {finite.sum()} models have both accuracies; a line needs {FEWEST}")
    first, second = first[finite], second[finite]
    slope, intercept = np.polyfit(first, second, 1)
    r2 = float(np.corrcoef(first, second)[0, 1] ** 2)
    ranks = coefficients("spearman", first[None], second[None], np.ones(len(first)))
    return Line(float(slope), float(intercept), r2, float(ranks[0, 0]), len(first))


def effective(x: ArrayLike, y: ArrayLike, line: Line) -> Floats:
    """Effective robustness in points of models with accuracies x and y in percent; NaN where either is."""
    return np.asarray(np.asarray(y, np.float64) - line.expected(x), np.float64)


def _probit(percent: ArrayLike) -> Floats:
    values = np.asarray(percent, np.float64)
    if np.any((values < 0) | (values > 100)):
        raise UsageError("effective robustness: accuracies outside 0 to 100; give percent")
    return np.asarray(ndtri(values / 100), np.float64)
