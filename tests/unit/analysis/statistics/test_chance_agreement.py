"""The floor is that of answers which fall on any images, by permutations counted, and the share above it is kept."""

from itertools import permutations

import numpy as np
import pytest
import scipy
from numpy.typing import ArrayLike

from bandlens.analysis.statistics import Floats, Ints
from bandlens.analysis.statistics.chance_agreement import MatchedAnswers
from bandlens.analysis.statistics.proportions import AT_FLOOR, p_above_chance, paired_interval, share_of


def answers(x: ArrayLike, y: ArrayLike, clusters: ArrayLike | None = None) -> MatchedAnswers:
    """The answers y under some conditions, beside x."""
    reference, classes = np.asarray(x), np.atleast_2d(y)
    ids = np.arange(len(reference)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    return MatchedAnswers(classes == reference, classes, reference, 0.0, ids)


def kept(x: ArrayLike, y: ArrayLike, clusters: ArrayLike | None = None) -> tuple[float, Floats]:
    """The share of answers to clean images that is kept under the conditions, and what clusters add to its error."""
    rows = np.atleast_2d(y)
    both = answers(x, np.vstack([np.asarray(x)[None], rows]), clusters)
    weights = np.r_[0, np.full(len(rows), 1 / len(rows))]
    value = weights @ both.above / both.above[0]
    return value, both.deviations(weights - value * np.eye(len(rows) + 1)[0]) / both.above[0]


def skewed(rng: np.random.Generator, images: int, share: float, conditions: int = 5) -> tuple[Ints, Ints]:
    """Clean answers of three classes, and answers of which a share is kept and all others are of one class mostly."""
    x, rest = rng.choice(3, images, p=[0.6, 0.3, 0.1]), rng.choice(3, (conditions, images), p=[0.9, 0.1, 0])
    return x, np.where(rng.random(rest.shape) < share, x, rest)


def test_mean_and_variance_are_those_of_all_permutations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, 6), rng.integers(0, 3, (4, 6))
    pooled = np.array([(x[list(order)] == y).mean() for order in permutations(range(6))])
    seen = answers(x, y)
    assert seen.expected.mean() == pytest.approx(pooled.mean())
    orders = np.array([[(x[list(order)] == row).mean() for order in permutations(range(6))] for row in y])
    least = orders.min(axis=1).mean()
    reach = orders.max(axis=1).mean() - least
    rate, share = ((number - least) / reach for number in (pooled.mean(), seen.hits.mean()))
    effective = rate * (1 - rate) / (pooled.var() / reach**2)
    tail = scipy.stats.beta.cdf(rate, effective * share, effective * (1 - share) + 1)
    assert seen.p == pytest.approx(tail if share > rate else 1)


@pytest.mark.parametrize(("images", "labels", "said", "right"), [(100, 20, 5, 4), (40, 8, 4, 3), (25, 5, 2, 2)])
def test_two_classes_that_are_rarely_right_and_rarely_said_have_the_exact_p(
    images: int, labels: int, said: int, right: int
) -> None:
    """It is that of Fisher's test: a share of 0.88 of 25 images is one in 30 by chance, where 0.74 is expected."""
    place = np.arange(images)
    x, y = place < labels, (place < right) | ((place >= labels) & (place < labels + said - right))
    p = answers(x.astype(int), y.astype(int)).p
    assert p == pytest.approx(scipy.stats.hypergeom.sf(right - 1, images, labels, said), rel=0.05)


def test_perfect_answers_to_clusters_of_mostly_one_class_are_above_their_floor() -> None:
    """Two of 20 clusters are of another class, and named: chance does it once in 190 times; four of 20 in 4,845."""
    clusters = np.arange(80) // 4
    two, four = ((clusters < count).astype(int) for count in (2, 4))
    assert answers(two, two, clusters).p == pytest.approx(1 / 190, rel=0.3)
    assert answers(four, four, clusters).p < AT_FLOOR


def test_images_of_a_single_cluster_have_a_floor() -> None:
    x = np.arange(20) % 2
    assert answers(x, x[::-1], np.zeros(20)).above == answers(x, x[::-1]).above


def test_the_floor_counts_pairs_of_images_of_different_clusters() -> None:
    rng = np.random.default_rng(1)
    x, y, clusters = rng.integers(0, 4, 30), rng.integers(0, 4, (3, 30)), rng.integers(0, 11, 30)
    apart = clusters[:, None] != clusters
    floors = [(x[:, None] == row)[apart].mean() for row in y]
    assert answers(x, y, clusters).above == pytest.approx((x == y).mean(axis=1) - floors)
    alone = answers(x, y)
    # The plug-in floor is off by (a - f) / n: not at all at the floor.
    assert alone.hits.mean(axis=1) - alone.expected == pytest.approx(alone.above * 29 / 30)


def test_the_most_frequent_class_said_always_is_at_its_floor() -> None:
    labels = np.where(np.arange(100) < 90, 0, np.arange(100) % 10)
    constant = answers(labels, np.zeros(100, np.int64))
    assert (constant.hits.mean(), constant.expected[0]) == pytest.approx((0.91, 0.91))
    assert (constant.above[0], constant.p) == (pytest.approx(0), 1.0)
    # Answers that are right less often, but on images of the other classes too, say something.
    rng = np.random.default_rng(0)
    informative = np.where(rng.random(100) < 0.3, 3, labels)
    assert (labels == informative).mean() < 0.8
    assert answers(labels, informative).p < 0.001


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_kept_is_the_share_of_answers_that_are_kept_and_its_interval_holds_it(share: float) -> None:
    rng, values, holds = np.random.default_rng(2), [], []
    for _ in range(300):
        x, y = skewed(rng, 60, share)
        value, deviations = kept(x, y)
        low, high = paired_interval(value, deviations, 1 / 60)
        values.append(value)
        holds.append(low <= share <= high)
    assert np.mean(values) == pytest.approx(share, abs=0.012)
    assert np.mean(holds) > 0.93


def test_deviations_are_those_of_leaving_clusters_out() -> None:
    """To first order: what a cluster adds to the error is what the number loses without it."""
    rng = np.random.default_rng(3)
    x, y = skewed(rng, 600, 0.4)
    clusters = np.arange(600) // 3
    value, deviations = kept(x, y, clusters)
    without = [kept(x[clusters != c], y[:, clusters != c], clusters[clusters != c])[0] for c in range(200)]
    assert np.corrcoef(value - np.array(without), deviations)[0, 1] > 0.999
    assert np.square(deviations).sum() == pytest.approx(np.var(without) * 199**2 / 200, rel=0.02)


@pytest.mark.parametrize("size", [1, 4])
def test_answers_that_keep_nothing_are_rarely_above_the_floor(size: int) -> None:
    rng, above = np.random.default_rng(4), 0
    for _ in range(1000):
        # Clusters are answered as a whole.
        x, y = (answer.repeat(size, axis=-1) for answer in skewed(rng, 25, 0.0))
        above += answers(x, y, np.arange(25 * size) // size).p <= AT_FLOOR
    assert above <= 10


def test_one_right_image_of_25_is_no_sign_of_a_thousand_classes() -> None:
    """It happens to 2.5 % of blind guesses; the normal distribution gives it 6e-7."""
    share = share_of(np.arange(25) < 1, np.arange(25))
    assert p_above_chance(share, 0.001) == pytest.approx(scipy.stats.binom.sf(0, 25, 0.001))
    assert p_above_chance(share, 0.001) > AT_FLOOR > p_above_chance(share_of(np.arange(25) < 2, np.arange(25)), 0.001)
