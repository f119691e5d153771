"""Smallest differences and correlations, against published figures, statsmodels, and simulated studies."""

from __future__ import annotations

from math import pi, sin, sqrt

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower

from bandlens.analysis.statistics.coefficients import coefficients, t_test
from bandlens.analysis.statistics.paired import mcnemar_p
from bandlens.analysis.statistics.power import (
    POWER,
    design_effect,
    images_needed,
    images_needed_by_test,
    models_needed,
    smallest_correlation,
    smallest_difference,
    smallest_kappa,
    smallest_tested_difference,
)


@pytest.mark.parametrize(
    ("images", "points"),
    [(300, (3.6, 5.1, 7.2)), (1000, (2.0, 2.8, 4.0)), (5000, (0.89, 1.25, 1.77)), (50000, (0.28, 0.40, 0.56))],
)
def test_the_smallest_differences_are_those_of_the_table(images: int, points: tuple[float, ...]) -> None:
    digits = 1 if images <= 1000 else 2
    assert [round(100 * smallest_difference(images, d), digits) for d in (0.05, 0.1, 0.2)] == [*points]


def test_forty_eight_models_show_a_correlation_of_point_39() -> None:
    assert round(smallest_correlation(48, method="pearson"), 2) == 0.39


@pytest.mark.parametrize("models", [12, 48])
def test_spearmans_smallest_correlation_is_found_in_four_of_five_studies(models: int) -> None:
    rho, rng = smallest_correlation(models, method="spearman"), np.random.default_rng(models)
    pearson = 2 * sin(pi * rho / 6)  # the coefficient of two normal variables whose ranks have rho
    x, errors = rng.standard_normal((2, 10_000, 1, models))
    y = pearson * x + sqrt(1 - pearson**2) * errors
    r = coefficients("spearman", x, y, np.ones((len(x), models)))[:, 0]
    assert np.mean((t_test(r, models - 2) < 0.05) & (r > 0)) == pytest.approx(POWER, abs=0.01)
    assert models_needed(rho, method="spearman") in (models, models + 1)


@pytest.mark.parametrize("tests", [1, 3, 72])
def test_it_is_the_power_of_statsmodels(tests: int) -> None:
    level = {"alpha": 0.05 / tests, "power": POWER, "ratio": 0}
    effect = NormalIndPower().solve_power(nobs1=900, **level)
    assert smallest_difference(900, 0.2, tests) == pytest.approx(effect * sqrt(0.2), rel=1e-4)
    # Where accuracies are a half, kappa is 2 observed - 1, whose variance is 1 - kappa^2.
    assert smallest_kappa(900, tests, 0.5) == pytest.approx(effect / sqrt(1 + effect**2), rel=1e-4)
    images = NormalIndPower().solve_power(effect_size=0.04 / sqrt(0.2), **level)
    assert images_needed(0.04, 0.2, tests) == np.ceil(images)
    difference = smallest_tested_difference(900, 0.2, tests)
    assert images_needed_by_test(difference, 0.2, tests) in (900, 901)
    fisher = NormalIndPower(ddof=3).solve_power(nobs1=40, **level)
    assert smallest_correlation(40, tests, "pearson") == pytest.approx(np.tanh(fisher), rel=1e-4)
    assert models_needed(-np.tanh(fisher), tests, "pearson") in (40, 41)
    assert models_needed(0.999, tests) == 9, "of fewer, p is by permutations, and this power is not theirs"


def test_a_difference_is_no_larger_than_the_images_that_differ() -> None:
    """The discordance is at least the difference that is found, whatever it was assumed to be."""
    difference = smallest_difference(20, 0.1)
    assert difference > smallest_difference(20, 0.3) * 0.99
    assert difference == pytest.approx(smallest_difference(20, difference))
    assert smallest_difference(4) > 1


def test_clusters_whose_images_are_alike_count_as_one_image_each() -> None:
    assert design_effect(np.arange(10)) == 1
    assert design_effect(np.repeat(np.arange(10), 7)) == 7
    assert design_effect(np.array([0, 0, 0, 1])) == 10 / 4


def test_mcnemars_test_finds_it_in_four_of_five_studies() -> None:
    rng, n, d = np.random.default_rng(0), 2000, 0.1
    difference = smallest_tested_difference(n, d)
    discordant = rng.binomial(n, d, 2000)
    gained = rng.binomial(discordant, (d + difference) / (2 * d))
    p = [mcnemar_p(np.repeat([1, -1], (up, total - up))) for up, total in zip(gained, discordant, strict=True)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(POWER, abs=0.02)
