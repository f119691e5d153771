"""Effective robustness is measured from lines that other people's code draws as well."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, norm, spearmanr

from bandlens.analysis.correlations.effective_robustness import fit_line, fit_testbed
from bandlens.core.errors import UsageError


def accuracies(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    x = random.uniform(40, 90, n)
    return x, 100 * norm.cdf(1.2 * norm.ppf(x / 100) - 0.7 + random.normal(0, 0.05, n))


def test_the_line_is_that_of_scipy() -> None:
    x, y = accuracies()
    line, regression = fit_line(x, y), linregress(norm.ppf(x / 100), norm.ppf(y / 100))
    assert (line.slope, line.intercept, line.r2) == pytest.approx(
        (regression.slope, regression.intercept, regression.rvalue**2)
    )
    assert line.spearman == pytest.approx(spearmanr(x, y).statistic)
    expected = 100 * norm.cdf(regression.intercept + regression.slope * norm.ppf(x / 100))
    assert line.expected(x) == pytest.approx(expected)


def test_what_has_no_probit_is_left_out_of_the_line_alone() -> None:
    x, y = accuracies()
    line = fit_line(np.append(x, [70, np.nan, 100]), np.append(y, [0, 50, 60]))
    assert line == fit_line(x, y)
    assert line.n == 40
    assert np.isnan(line.expected([np.nan])).all()


def test_shares_of_more_than_all_and_lines_of_two_models_are_refused() -> None:
    with pytest.raises(UsageError, match="outside 0 to 100"):
        fit_line([10, 20, 101], [1, 2, 3])
    with pytest.raises(UsageError, match="2 models have both"):
        fit_line([10, 20, 30], [1, 2, 0])


def test_the_testbed_has_logit_lines_on_either_side_of_a_network_with_nothing_right() -> None:
    """ImageNet-A has the photographs that ResNet-50 has wrong; its own accuracy on them is 0, and it is on no line."""
    x, y = accuracies()
    x, y = np.append(x, 70), np.append(y, 0)
    fit, sides = fit_testbed("imagenet-a-clean", x, y), (x < 70, x > 70)
    assert (fit.x, fit.pivot) == ("imagenet-a-clean", 70)
    expected = np.empty_like(x)
    for fitted, side, line in zip(sides, (x <= 70, x > 70), fit.lines, strict=True):
        regression = linregress(*(np.log(p[fitted] / (100 - p[fitted])) for p in (x, y)))
        assert (line.slope, line.intercept) == pytest.approx((regression.slope, regression.intercept))
        odds = np.exp(regression.intercept + regression.slope * np.log(x[side] / (100 - x[side])))
        expected[side] = 100 * odds / (1 + odds)
    assert fit.expected(x) == pytest.approx(expected)
    assert fit_testbed("imagenet", *accuracies()).pivot is None
