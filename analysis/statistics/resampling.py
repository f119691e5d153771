"""Resampling: of images, what another draw of photographs would have given; of models, intervals and tests.

Images of a cluster go together, with their outcomes under every condition (Field & Welsh 2007). Intervals are
percentiles over 1,000 seeded resamples.

Correlations have permutation tests, and bootstrap intervals from nine models on. Permutations shuffle the models of one
variable against the other, 10,000 times unless asked otherwise:

    p = (1 + number of permutations with |r*| >= |r|) / (1 + number of permutations)          (Phipson & Smyth 2010)

Up to eight models, all n! permutations are counted, the data among them:

    p of Spearman's   share of permutations with |r*| >= |r|, ranks of ties averaged
    p of Pearson's    2 min(share with r* >= r, share with r* <= r), at most 1
    least possible    the p that the best order of the same values would have; 2 / n! without ties

Intervals over models are bias-corrected and accelerated (Efron 1987), of resamples of n of n models; there is none
where a variable does not vary in more than 5 % of them:

    ends at the quantiles Phi(z0 + (z0 ± 1.96) / (1 - a (z0 ± 1.96))) of the resampled coefficients
    z0 = Phi^-1(share of resamples below r, equal ones half)
    a  = sum d^3 / (6 (sum d^2)^(3/2)),   d = mean - r without model i

Intervals over models and images also draw every value anew from its own interval (low, high) in each resample, once for
a model drawn twice (Owen 2007):

    x* = x + |z| / 1.96 * (high - x  if z > 0,  else  low - x),      z ~ N(0, 1)

Errors of accuracies are drawn together for all models, correlated as their d_u (`shares`) are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations as all_orders
from itertools import product

import numpy as np
import scipy
from numpy.typing import NDArray

from . import LEVEL, Floats, Index, Ints, Mask, Z
from .coefficients import Method, centred_ranks, coefficients
from .proportions import Share

RESAMPLES = 1000
"""Resamples of the images behind an interval."""
FEWEST_CLUSTERS = 20
"""Below it, percentiles over resampled clusters are too narrow to be believed."""
_DRAWS_AT_ONCE = 1 << 20
"""Numbers in the largest table of draws of clusters."""
UNDEFINED = 0.05
"""Share of resamples without a coefficient above which there is no interval."""
BLOCK = 4_000_000
"""Numbers in the largest temporary array."""


# Images


def count_right(correct: Mask, ids: Index, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Right answers (conditions, 1 + resamples) and images (1 + resamples,): the data first, then C clusters anew.

    `correct` is (conditions, n); `ids` is (n,), cluster indices from 0 to C - 1. The draws are a function of `seed`.
    """
    cluster_count = int(ids.max()) + 1
    table = np.stack([np.bincount(ids, weights=row, minlength=cluster_count) for row in correct] + [np.bincount(ids)])
    # Float32 holds counts up to 2^24 as they are, and multiplies twice as fast.
    table = table.astype(np.float32 if len(ids) < 1 << 24 else np.float64)
    draws = _kept_draws if draws_are_kept(cluster_count, resamples) else _draws
    resampled = [table @ times.T for times in draws(cluster_count, resamples, seed)]
    counts = np.concatenate([table.sum(axis=1, keepdims=True), *resampled], axis=1).astype(np.float64)
    return counts[:-1], counts[-1]


def draws_are_kept(cluster_count: int, resamples: int) -> bool:
    """Whether draws of so many clusters are kept, since every model of a study asks for the same."""
    return resamples * cluster_count <= _DRAWS_AT_ONCE


def _draws(cluster_count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """(…, C): how often each cluster is drawn, for some resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // cluster_count)
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        indices = rng.integers(cluster_count, size=(size, cluster_count)) + np.arange(size)[:, None] * cluster_count
        times = np.bincount(indices.ravel(), minlength=size * cluster_count).reshape(size, cluster_count)
        yield times.astype(np.float32)


@lru_cache(maxsize=2)
def _kept_draws(cluster_count: int, resamples: int, seed: int) -> tuple[NDArray[np.float32], ...]:
    return tuple(_draws(cluster_count, resamples, seed))


def interval(values: Floats) -> tuple[float, float]:
    """The central 95 % interval of resampled values."""
    low, high = intervals(values)
    return float(low), float(high)


def intervals(values: Floats) -> tuple[Floats, Floats]:
    """The central 95 % of resampled values (…, resamples): low and high ends, (…)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high


# Correlations over models


@dataclass(frozen=True, slots=True)
class Interval:
    """95 % intervals of a by b coefficients; NaN where more than 5 % of the resamples have no coefficient."""

    low: Floats
    high: Floats
    undefined: Ints
    """Resamples in which a variable does not vary."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far below and above its value a variable reaches within its own 95 % interval, (variables, models), >= 0."""

    down: Floats
    up: Floats

    @property
    def has_interval(self) -> Mask:
        """Which variables have an interval, of one model at least."""
        return np.asarray((self.down > 0).any(axis=-1) | (self.up > 0).any(axis=-1))

    def move(self, values: Floats, normal: Floats) -> Floats:
        """Move values by standard normal numbers; the ends of the interval are the 2.5 and 97.5 % quantiles."""
        return np.asarray(values + normal / Z * np.where(normal > 0, self.up, self.down))


def resample_weights(n: int, resamples: int, seed: int) -> Floats:
    """(resamples, n): how often each model is drawn, n draws with replacement."""
    return np.concatenate([*_draws(n, resamples, seed)]).astype(np.float64)


def bootstrap(method: Method, x: Floats, y: Floats, resamples: int, seed: int) -> Floats:
    """(resamples, a, b): the coefficients of x (a, n) with y (b, n), n models drawn with replacement."""
    return _weighted(method, x, y, resample_weights(x.shape[-1], resamples, seed))


def _weighted(method: Method, x: Floats, y: Floats, weights: Floats) -> Floats:
    """(m, a, b): the coefficients of x (a, n) with y (b, n) under each of the weights (m, n)."""
    return np.concatenate([coefficients(method, x, y, weights[block]) for block in _blocks(len(weights), x, y)])


def crossed_bootstrap(
    method: Method,
    x: Floats,
    y: Floats,
    x_spread: Spread,
    y_spread: Spread,
    resamples: int,
    seed: int,
    shared: Floats | None = None,
) -> Floats:
    """As `bootstrap`, and in each resample each model's values are drawn anew from their own intervals.

    Models and images are resampled independently, and a model that is drawn twice has one value (Owen 2007).

    shared: (a + b, n, factors), as from `shared_factors`, what the errors of the values have in common since they are
    of the same images; the errors of a value with no factors are independent of all others.
    """
    weights = resample_weights(x.shape[-1], resamples, seed)
    random, factor_random = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 3])
    resampled = []
    # Accuracies alone have factors: the products of the biases, which are most variables, would be zeros.
    has_factors = np.zeros((len(x) + len(y), 1), bool) if shared is None else (shared != 0).any(axis=-1)
    driven = np.flatnonzero(has_factors.any(axis=-1))
    for block in _blocks(resamples, x, y):
        normal = random.standard_normal((len(weights[block]), len(x) + len(y), x.shape[-1]))
        if shared is not None:
            factors = factor_random.standard_normal((len(normal), shared.shape[-1]))
            common_errors = np.einsum("rk,vnk->rvn", factors, shared[driven], optimize=True)
            normal[:, driven] = np.where(has_factors[driven], common_errors, normal[:, driven])
        moved_x, moved_y = x_spread.move(x, normal[:, : len(x)]), y_spread.move(y, normal[:, len(x) :])
        resampled.append(coefficients(method, moved_x, moved_y, weights[block]))
    return np.concatenate(resampled)


def shared_factors(errors: Sequence[Share | None]) -> Floats:
    """(values, factors): standard normal factors times these have the correlations of the errors of shares.

    Errors are correlated as far as the shares are of the same clusters: the correlation of two is that of their d_u. A
    row of zeros is a value whose error is not known, or 0.
    """
    rows = [k for k, share in enumerate(errors) if share and share.deviations.any()]
    factors = np.zeros((len(errors), len(rows)))
    if rows:
        shares = [share for k in rows if (share := errors[k])]
        clusters = np.unique(np.concatenate([share.clusters for share in shares]))
        d = np.zeros((len(rows), len(clusters)), np.float32)
        for row, share in zip(d, shares, strict=True):
            row[np.searchsorted(clusters, share.clusters)] = share.deviations / np.sqrt((share.deviations**2).sum())
        length, direction = np.linalg.eigh((d @ d.T).astype(np.float64))
        factors[rows] = direction * np.sqrt(length.clip(0))
    return factors


def bca_intervals(method: Method, x: Floats, y: Floats, *distributions: Floats) -> list[Interval]:
    """The bias-corrected and accelerated intervals (Efron 1987) of coefficients of x (a, n) with y (b, n).

    distributions: resampled coefficients, (resamples, a, b) of each kind, which has an interval of its own.
    """
    n = x.shape[-1]
    estimate, jackknife = coefficients(method, x, y, np.ones(n)), _weighted(method, x, y, 1 - np.eye(n))
    d = jackknife.mean(axis=0) - jackknife
    results = []
    with np.errstate(invalid="ignore", divide="ignore"):
        a = np.where((d == 0).all(axis=0), 0, (d**3).sum(axis=0) / (6 * (d**2).sum(axis=0) ** 1.5))
        for resampled in distributions:
            defined = (~np.isnan(resampled)).sum(axis=0)
            below = ((resampled < estimate).sum(axis=0) + (resampled <= estimate).sum(axis=0)) / (2 * defined)
            z0 = scipy.special.ndtri(below)
            low, high = (scipy.special.ndtr(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (-Z, Z))
            results.append(_between(resampled, low, high))
    return results


def _between(resampled: Floats, low: Floats, high: Floats) -> Interval:
    missing = np.isnan(resampled)
    ends = np.full((2, *low.shape), np.nan)
    for pair in np.ndindex(low.shape):
        quantiles = np.array([low[pair], high[pair]])
        if missing[:, *pair].mean() <= UNDEFINED and not np.isnan(quantiles).any():
            ends[:, *pair] = np.quantile(resampled[~missing[:, *pair], *pair], quantiles)
    return Interval(ends[0], ends[1], missing.sum(axis=0))


def permutation_p(method: Method, x: Floats, y: Floats, permutations: int, seed: int) -> Floats:
    """Two-sided p (a, b): the models of x are shuffled against those of y (Phipson & Smyth 2010)."""
    n = x.shape[-1]
    order = np.random.default_rng([seed, 2]).permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    once = np.ones(n)
    if method == "spearman":  # ranks move with their models, so they are taken once
        method, x, y = "pearson", centred_ranks(x, once), centred_ranks(y, once)
    observed = np.abs(coefficients(method, x, y, once))
    count = np.zeros(observed.shape)
    for block in _blocks(len(order), x, y):
        shuffled = np.moveaxis(x[:, order[block]], 0, 1)
        # Equal but for rounding is equal.
        count += (np.abs(coefficients(method, shuffled, y, once)) >= observed - 1e-12).sum(axis=0)
    return np.where(np.isnan(observed), np.nan, (1 + count) / (1 + len(order)))


def exact_p(method: Method, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Two-sided p of x (a, n) with y (b, n) by all permutations of n <= EXACT_MODELS models, and the least possible p.

    Both are (a, b), and NaN where a variable does not vary.
    """
    n = x.shape[-1]
    if method == "spearman":
        x, y = (centred_ranks(values, np.ones(n)) for values in (x, y))
    orders = np.array(list(all_orders(range(n))))
    results = np.ones((2, len(x), len(y)))
    for j, block in product(range(len(y)), _blocks(len(x), orders, y)):
        r = coefficients("pearson", y[j, orders], x[block], np.ones(n))  # the first order is that of the data
        sides = [np.abs(r)] if method == "spearman" else [r, -r]
        for side in sides:
            for p, extreme in zip(results[:, block, j], (side[0], side.max(axis=0)), strict=True):
                np.minimum(p, len(sides) * (side >= extreme - 1e-9).mean(axis=0), out=p)
        results[:, block, j][:, np.isnan(r[0])] = np.nan
    return results[0], results[1]


def _blocks(count: int, x: Floats, y: Floats) -> Iterator[slice]:
    """Slices of so many resamples, or variables under all orders, that their arrays stay small."""
    size = int(np.clip(BLOCK // ((len(x) + len(y)) * x.shape[-1]), 1, 500))
    return (slice(first, first + size) for first in range(0, count, size))
