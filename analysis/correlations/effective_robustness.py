"""Effective robustness: accuracy under a distribution shift beyond what is expected from the accuracy without it.

The definition is that of Taori et al. (2020). A line is fitted to the accuracies of a baseline, a set of reference
models. The effective robustness of another model is its distance from the line in percentage points:

    f(y) = slope f(x) + intercept                           least squares over the models of the baseline
    effective = y - 100 f^-1(slope f(x) + intercept)        percentage points

x is the accuracy on ImageNet and y the accuracy under the shift, both in percent. Models with an accuracy of 0% or 100%
are left out because f is infinite there. The baselines `standard` and `timm` use the probit f = Phi^-1(p / 100) (Miller
et al. 2021), x over all 1,000 classes, and one line for each benchmark. `testbed` follows the definition of the
ImageNet testbed:

- f is the logit, log(p / (1 - p)).
- The models are those with standard training, except those with `aws` or `batch64` in their names.
- For ImageNet-A and ImageNet-R, x is the accuracy over the same 200 classes.
- ImageNet-A has two lines, for accuracies below and above that of resnet50. Its images were selected because resnet50
  misclassifies them.
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
"""Minimum number of models for a line. A line through two models fits perfectly whatever their accuracies are."""


Axes: TypeAlias = Literal["probit", "logit"]
TRANSFORMS: Mapping[Axes, tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    "probit": (ndtri, ndtr),
    "logit": (logit, expit),
}
"""Maps the name of the axes to f, which transforms a proportion in [0, 1], and to its inverse."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line fitted to the accuracies of the models of a baseline, on probit or logit axes."""

    slope: float
    intercept: float
    r2: float
    """Coefficient of determination: the proportion of the variance of f(y) that the line explains."""
    spearman: float
    """Spearman's coefficient of x and y. It does not depend on the axes."""
    n: int
    """Number of models that the line is fitted to."""
    axes: Axes = "probit"

    def expected(self, x: ArrayLike) -> Floats:
        """Return the accuracy under the shift, in percent, that the line predicts for models of accuracy x, in
        percent.
        """
        inverse = TRANSFORMS[self.axes][1]
        return np.asarray(100 * inverse(self.slope * _on_axes(x, self.axes) + self.intercept), np.float64)


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expected accuracy on a benchmark: one line, or two lines below and above a pivot."""

    x: str
    """Benchmark of the accuracy x: `imagenet`, or for example `imagenet-a-clean` for the 200 classes of ImageNet-A."""
    lines: tuple[Line, ...]
    pivot: float | None = None
    """Accuracy x, in percent, up to which the first of two lines applies. None if there is one line."""

    def expected(self, x: ArrayLike) -> Floats:
        """Return the expected accuracy on the benchmark for models of accuracy x, both in percent."""
        first, last = self.lines[0].expected(x), self.lines[-1].expected(x)
        return first if self.pivot is None else np.where(np.asarray(x, np.float64) > self.pivot, last, first)


def fit_line(x: ArrayLike, y: ArrayLike, axes: Axes = "probit") -> Line:
    """Fit a line to accuracies by least squares on transformed axes.

    Args:
        x: Accuracies without the shift, in percent, (n,).
        y: Accuracies under the shift, in percent, (n,). Models with NaN, 0 or 100 in x or y are left out.
        axes: "probit" or "logit".

    Raises:
        UsageError: If an accuracy is outside [0, 100], or fewer than three models remain.
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
    """Fit lines as the ImageNet testbed does, on logit axes.

    A model without any correct image is the one by which the images were selected. Its accuracy x becomes the pivot,
    and the models below and above it get a line each.

    Args:
        x_benchmark: Benchmark of the accuracies x.
        x: Accuracies without the shift, in percent, (n,).
        y: Accuracies under the shift, in percent, (n,).

    Raises:
        UsageError: If an accuracy is outside [0, 100], or a line has fewer than three models.
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
