"""Shares, their means and their differences over the same images have intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.statistics.paired import paired
from bandlens.analysis.statistics.proportions import (
    difference_interval,
    mean_of,
    share_interval,
    share_of,
)


def test_a_difference_over_the_same_images_is_that_of_their_differences() -> None:
    rng = np.random.default_rng(0)
    answers_a = rng.random(600) < 0.7
    answers_b = np.where(rng.random(600) < 0.9, answers_a, rng.random(600) < 0.5)
    clusters = np.arange(600) // 3
    interval = difference_interval(share_of(answers_a, clusters), share_of(answers_b, clusters))
    d = (answers_b.astype(float) - answers_a).reshape(200, 3).mean(axis=1)
    assert interval is not None
    assert np.mean(interval) == pytest.approx(d.mean())
    # One of the 200 more differs as a whole.
    unseen = np.sqrt((d.var() * 200 + 1) / 199 / 200)
    assert (interval[1] - interval[0]) / 2 == pytest.approx(t.ppf(0.975, 50) * unseen, rel=0.02)
    assert difference_interval(share_of(answers_a, clusters), share_of(answers_b, clusters + 1000)) is None
    assert difference_interval(share_of(answers_a, clusters * 0), share_of(answers_b, clusters * 0)) is None


def test_clusters_that_one_share_lacks_add_nothing_to_its_error() -> None:
    rng = np.random.default_rng(0)
    a, b = (share_of(rng.random(100) < 0.7, np.arange(100) + first) for first in (0, 50))
    padded_a, padded_b = (
        replace(
            share, clusters=np.arange(150), deviations=np.pad(share.deviations, pad), sizes=np.pad(share.sizes, pad)
        )
        for share, pad in ((a, (0, 50)), (b, (50, 0)))
    )
    assert difference_interval(a, b) == pytest.approx(difference_interval(padded_a, padded_b))


def test_answers_that_do_not_differ_may_differ_in_other_images() -> None:
    """Where 3.6 % of 100 images differ, none of them does in 1 of 40 draws."""
    share = share_of(np.arange(100) < 70, np.arange(100))
    low, high = difference_interval(share, share) or (0, 0)
    assert low == -high
    assert 0.02 < high < 0.036
    independent = np.hypot(*np.subtract(proportion_confint(70, 100, method="wilson"), 0.7))
    assert high < 0.25 * independent


@pytest.mark.parametrize(("clusters", "period", "p"), [(60, 2, 0.9), (20, 5, 0.99)])
def test_differences_hold_where_clusters_are_unequal_and_differ_as_a_whole(
    clusters: int, period: int, p: float
) -> None:
    """Each second or fifth cluster has 40 images, all others one; B is right in most clusters, A in half of these.

    Without the sizes, the difference of cells held in 0.92 of the first and that of means in 0.76. That of means held
    in 0.88 of the second with unseen clusters of fewer images.
    """
    sizes = np.where(np.arange(clusters) % period, 1, 40)
    ids, coverage, draws = np.repeat(np.arange(clusters), sizes), np.zeros(2), 400
    for run in range(draws):
        fate = np.repeat(np.random.default_rng(run).random(clusters), sizes)
        a, b = fate < p / 2, fate < p
        cell = paired(a[None], b[None], ids)
        coverage[0] += cell.low[0] <= p / 2 <= cell.high[0]
        low, high = difference_interval(share_of(a, ids), share_of(b, ids)) or (1, -1)
        coverage[1] += low <= p / 2 <= high
    assert (coverage / draws > 0.93).all()


def test_a_mean_of_sets_of_unequal_clusters_is_as_wide_as_its_sets() -> None:
    """Two sets show the same photographs with the same answers: their mean is known no better than either."""
    sizes = np.where(np.arange(60) % 2, 1, 40)
    ids = np.repeat(np.arange(60), sizes)
    share = share_of(np.repeat(np.arange(60) % 4 > 0, sizes), ids)
    assert share_interval(mean_of([share, share])) == pytest.approx(share_interval(share), abs=1e-4)


def test_a_mean_of_sets_holds_where_clusters_that_are_all_alike_may_be_unseen() -> None:
    """Two sets show the same 50 photographs up to 40 times; 60 % are right as a whole or wrong.

    Without unseen clusters, the mean held in 0.84.
    """
    sizes, draws, held = np.linspace(1, 40, 50).round().astype(int), 300, 0
    ids, rng = np.repeat(np.arange(50), sizes), np.random.default_rng(0)
    for _ in range(draws):
        fate = np.where(rng.random(50)[ids] < 0.6, rng.random(50)[ids], rng.random(len(ids)))
        low, high = share_interval(mean_of([share_of(fate < p, ids) for p in (0.05, 0.025)]))
        held += low <= 0.0375 <= high
    assert held / draws > 0.93
