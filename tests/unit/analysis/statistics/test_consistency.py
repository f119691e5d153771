"""Error consistency is that of other libraries, of scipy's bootstrap and of known cases."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from pairs_of_observers import error_consistency, kappa
from statsmodels.stats.inter_rater import cohens_kappa

from bandlens.analysis.statistics import Ints
from bandlens.analysis.statistics.consistency import (
    consistency_with_others,
    copied_share,
    error_consistencies,
)


def observers(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    hard = random.random(n)
    return hard + random.normal(0, 0.3, n) < 0.7, hard + random.normal(0, 0.3, n) < 0.5


def test_the_range_that_two_accuracies_allow() -> None:
    first = np.arange(10) < 8
    estimate = error_consistency(first, np.arange(10) < 6)  # wrong wherever the first is
    assert estimate.kappa == pytest.approx(estimate.most) == pytest.approx(0.545454, abs=1e-6)
    apart = error_consistency(first, np.arange(10) >= 4)  # right wherever the first is wrong
    assert apart.kappa == pytest.approx(apart.least) == pytest.approx(-0.363636, abs=1e-6)
    assert np.isnan(apart.p_copy)


def test_the_copied_share_is_that_of_klein_and_gives_back_kappa() -> None:
    assert copied_share(0.4, 0.8, 0.6) == copied_share(0.4, 0.6, 0.8) == pytest.approx(0.55)
    random, n = np.random.default_rng(3), 200_000
    better = random.random(n) < 0.8
    # By itself it is right so often that it is right in 60 % of all.
    own_answers = random.random(n) < (0.6 - 0.55 * 0.8) / 0.45
    copying = error_consistency(better, np.where(random.random(n) < 0.55, better, own_answers), resamples=100)
    assert (copying.kappa, copying.p_copy) == pytest.approx((0.4, 0.55), abs=0.01)


def test_as_many_images_as_needed_tell_kappa_from_zero_in_four_of_five_studies() -> None:
    """Two observers with 75 % right, of whom the second copies a fifth of the first's decisions."""
    random = np.random.default_rng(4)

    def study(n: int) -> SimpleNamespace:
        first, second = random.random((2, n)) < 0.75
        return error_consistency(first, np.where(random.random(n) < 0.2, first, second), resamples=200)

    count = int(study(100_000).needed)
    assert np.mean([study(count).low > 0 for _ in range(300)]) == pytest.approx(0.8, abs=0.07)


def several(n: int, seed: int = 0) -> np.ndarray:
    """(4, n): observers of four accuracies, who find the same images hard."""
    random = np.random.default_rng(seed)
    hard = random.random(n)
    return np.stack([hard + random.normal(0, 0.2, n) < share for share in (0.3, 0.5, 0.7, 0.8)])


def mean_kappas(hits: np.ndarray) -> list[float]:
    """The mean of each observer's kappa with all others."""
    kappas = np.array([[kappa(first, second) for second in hits] for first in hits])
    return list((kappas.sum(axis=1) - 1) / (len(hits) - 1))


def test_contributions_are_of_the_mean_kappa_with_all_others() -> None:
    """Contributions average to the mean kappa; without an image, it moves by what the image adds (the jackknife)."""
    hits = several(500)
    contributions = consistency_with_others(hits)
    assert contributions.mean(axis=1) == pytest.approx(mean_kappas(hits))
    for image in range(0, 500, 100):
        shifts = 499 * (contributions.mean(axis=1) - mean_kappas(np.delete(hits, image, axis=1)))
        assert shifts == pytest.approx(contributions[:, image] - contributions.mean(axis=1), abs=0.02)


def test_many_pairs_have_the_numbers_of_each_pair_alone() -> None:
    random = np.random.default_rng(5)
    hits = random.random(60) + random.normal(0, 0.3, (6, 60)) < np.linspace(0.2, 0.8, 6)[:, None]
    hits[1], hits[2], hits[3] = True, False, np.arange(60) == 0  # without a kappa, and with few in resamples
    for clusters in (np.arange(60) // 4, None, np.arange(60) // 3):
        columns = error_consistencies(hits[4], hits, clusters, 300)
        for row, observer in enumerate(hits):
            pair = vars(error_consistency(hits[4], observer, clusters, 300))
            np.testing.assert_equal({name: column[row] for name, column in columns.items()}, pair)
        assert np.isnan(columns["low"]).all() == (clusters is not None and clusters.max() < 19), "few are too narrow"
    assert np.isnan(columns["low"]).tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("clusters", [np.repeat(np.arange(20), 2), None], ids=["clusters", "images"])
def test_an_interval_is_that_of_kappas_of_resampled_tables(clusters: Ints | None) -> None:
    first, second = observers(40)
    count = 40 if clusters is None else 20
    kappas = []
    for choices in np.random.default_rng(0).integers(count, size=(200, count)):
        times = np.bincount(choices, minlength=count)
        weights = times if clusters is None else times[clusters]
        counts = np.bincount(2 * first + second, weights=weights, minlength=4)
        kappas.append(cohens_kappa(counts.reshape(2, 2)).kappa)
    estimate = error_consistency(first, second, clusters, 200)
    assert estimate.kappa == pytest.approx(kappa(first, second))
    assert (estimate.first_accuracy, estimate.second_accuracy) == pytest.approx((first.mean(), second.mean()))
    assert (estimate.n, estimate.observed) == (40, (first == second).mean())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(kappas, [0.025, 0.975])))


def test_many_images_have_the_interval_that_images_drawn_singly_have() -> None:
    """Above a number of images only the counts of right and wrong are drawn; clusters of one image are drawn singly."""
    first, second = observers(3_000)
    by_counts, singly = (error_consistency(first, second, clusters, 2_000) for clusters in (None, np.arange(3_000)))
    width = singly.high - singly.low
    assert by_counts.kappa == singly.kappa
    assert [by_counts.low, by_counts.high] == pytest.approx([singly.low, singly.high], abs=0.1 * width)
