"""Effective robustness: accuracy under a shift, less what accuracy without it lets one expect (Taori et al. 2020).

    f(y) = slope f(x) + intercept                           least squares over the models of a baseline
    effective = y - 100 f^-1(slope f(x) + intercept)        points

x is the accuracy on ImageNet and y that under the shift, in percent; a model of 0 or 100 % is on no line. The baselines
`standard` and `timm` have the probit f = Phi^-1(p / 100) (Miller et al. 2021), x over all 1,000 classes, and one line a
benchmark. `testbed` is the ImageNet testbed's own definition:

- f is the logit, log(p / (1 - p));
- the models are those of standard training, without `aws` and `batch64`;
- x is over the same 200 classes for ImageNet-A and ImageNet-R;
- ImageNet-A has two lines, below and above the network whose errors its images were chosen by (resnet50).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, ndtri

from ...core.errors import UsageError
from ..statistics import Floats
from ..statistics.coefficients import coefficients

LINE_MODELS = 3
"""Models that a line needs: two are on one whatever they are."""


Axes: TypeAlias = Literal["probit", "logit"]
TRANSFORMS: Mapping[Axes, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "probit": (ndtri, ndtr),
    "logit": (logit, expit),
}
"""Axes -> the function of a share in [0, 1] on whose scale a line is fitted, and its inverse."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through the accuracies of a baseline's models, on probit or logit axes."""

    slope: float
    intercept: float
    r2: float
    """Share of the variance of f(y) that the line has."""
    spearman: float
    """The coefficient of x and y, which no change of axes alters."""
    n: int
    axes: Axes = "probit"

    def expected(self, x: ArrayLike) -> Floats:
        """The accuracy under the shift, in percent, that a model of the baseline with accuracy x would have."""
        inverse = TRANSFORMS[self.axes][1]
        return np.asarray(100 * inverse(self.slope * _on_axes(x, self.axes) + self.intercept), np.float64)


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expected accuracy on a benchmark by a baseline: a line, or one below and one above a pivot."""

    x: str
    """The benchmark whose accuracy x is: `imagenet`, or `imagenet-a-clean` over the 200 classes of ImageNet-A."""
    lines: tuple[Line, ...]
    pivot: float | None = None
    """The accuracy x, in percent, up to which the first of two lines holds."""

    def expected(self, x: ArrayLike) -> Floats:
        """The accuracy on the benchmark, in percent, that a model of the baseline with accuracy x would have."""
        first, last = self.lines[0].expected(x), self.lines[-1].expected(x)
        return first if self.pivot is None else np.where(np.asarray(x, np.float64) > self.pivot, last, first)


def fit_line(x: ArrayLike, y: ArrayLike, axes: Axes = "probit") -> Line:
    """The line of accuracies x and y in percent, (n,) each; NaN or 0 or 100 in either leaves the model out.

    Raises UsageError for accuracies outside 0 to 100, or fewer than three models.
    """
    first, second = _on_axes(x, axes), _on_axes(y, axes)
    finite = np.isfinite(first) & np.isfinite(second)
    if finite.sum() < LINE_MODELS:
        raise UsageError(
            f"effective robustness: {finite.sum()} models have both accuracies; a line needs {LINE_MODELS}"
        )
    first, second = first[finite], second[finite]
    slope, intercept = np.polyfit(first, second, 1)
    r2 = float(np.corrcoef(first, second)[0, 1] ** 2)
    ranks = coefficients("spearman", first[None], second[None], np.ones(len(first)))
    return Line(float(slope), float(intercept), r2, float(ranks[0, 0]), len(first), axes)


def fit_testbed(x_benchmark: str, x: Floats, y: Floats) -> Expectation:
    """The testbed's fit of accuracies y over x, those on x_benchmark, in percent, (n,) each: on logit axes.

    A network with no image right is the one that the images were chosen by: its accuracy x is the pivot, and the
    networks on either side of it have a line of their own.
    """
    chosen_by = x[y == 0]
    if not len(chosen_by):
        return Expectation(x_benchmark, (fit_line(x, y, "logit"),))
    pivot = float(chosen_by[0])
    sides = tuple(fit_line(x[side], y[side], "logit") for side in (x < pivot, x > pivot))
    return Expectation(x_benchmark, sides, pivot)


def _on_axes(percent: ArrayLike, axes: Axes) -> Floats:
    values = np.asarray(percent, np.float64)
    if np.any((values < 0) | (values > 100)):
        raise UsageError("effective robustness: accuracies outside 0 to 100; give percent")
    return np.asarray(TRANSFORMS[axes][0](values / 100), np.float64)
