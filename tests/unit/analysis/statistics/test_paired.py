import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.stats.contingency_tables import mcnemar

from bandlens.analysis.statistics import Mask
from bandlens.analysis.statistics.paired import mcnemar_p, paired


def outcomes(rng: np.random.Generator, n: int, flips: float) -> tuple[Mask, Mask]:
    a = rng.random((1, n)) < 0.6
    return a, a ^ (rng.random((1, n)) < flips)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 300), flips=st.floats(0, 0.5))
def test_independent_images_have_the_p_of_statsmodels_and_the_interval_of_bonett_and_price(
    seed: int, n: int, flips: float
) -> None:
    a, b = outcomes(np.random.default_rng(seed), n, flips)
    comparison = paired(a, b, np.arange(n))
    losses, gains = int(comparison.lost[0]), int(comparison.gained[0])
    assert (losses, gains) == ((a & ~b).sum(), (b & ~a).sum())
    # With as many gained as lost, the correction of statsmodels goes beyond 0 and back up.
    expected = mcnemar([[0, losses], [gains, 0]], exact=losses + gains < 25, correction=losses != gains)
    assert comparison.p[0] == pytest.approx(expected.pvalue, abs=1e-10)
    u, v = (comparison.gained[0] + 1) / (n + 2), (comparison.lost[0] + 1) / (n + 2)
    half = t.ppf(0.975, n - 1) * np.sqrt((u + v - (u - v) ** 2) / (n + 2))
    assert (comparison.low[0], comparison.high[0]) == pytest.approx(
        (max(-1, u - v - half), min(1, u - v + half)), abs=1e-9
    )


@given(sums=st.lists(st.integers(-4, 4), max_size=9))
def test_few_clusters_are_tested_by_every_way_to_give_signs(sums: list[int]) -> None:
    ways = [sum(signs) for signs in itertools.product(*([s, -s] for s in sums))]
    expected = np.mean([abs(way) >= abs(sum(sums)) for way in ways])
    assert mcnemar_p(np.array(sums, np.int64)) == pytest.approx(expected, abs=1e-12)


def test_many_clusters_are_tested_by_chi_square_with_their_own_variance() -> None:
    sums = np.array([3, -1, 2] * 20)
    from scipy.stats import chi2

    assert mcnemar_p(sums) == pytest.approx(chi2.sf((80 - 1) ** 2 / (14 * 20), 1), abs=1e-15)


def test_without_a_flip_the_interval_depends_on_how_many_independent_images_there_are() -> None:
    answers = np.ones((1, 64), bool)
    images, clusters = paired(answers, answers, np.arange(64)), paired(answers, answers, np.repeat(np.arange(8), 8))
    assert images.p == clusters.p == 1
    assert images.low == -images.high
    assert clusters.high > 3 * images.high > 0


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    runs, size = 1000, 4
    shared = np.repeat(rng.random((runs, 50)), size, axis=1)
    draw = np.where(rng.random(shared.shape) < 0.5, shared, rng.random(shared.shape))
    comparison = paired(draw < 0.05, draw > 0.85, np.repeat(np.arange(50), size))
    assert 0.93 < np.mean((comparison.low <= 0.1) & (comparison.high >= 0.1)) < 0.98
