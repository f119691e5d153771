"""Resampling of images and of models: bootstrap intervals and permutation tests.

Resampling images shows how a result varies with the choice of images. All images of a cluster are drawn together, along
with their outcomes under every condition (Field & Welsh 2007). Confidence intervals are percentile intervals over 1,000
resamples with a fixed seed.

Correlations over models are tested by permutation, and have bootstrap intervals if there are nine or more models. A
permutation shuffles the models of one variable relative to the other. The default is 10,000 random permutations:

    p = (1 + number of permutations with |r*| >= |r|) / (1 + number of permutations)          (Phipson & Smyth 2010)

For up to eight models, all n! permutations are enumerated, including the observed order:

    p of Spearman's coefficient   proportion of permutations with |r*| >= |r|, with average ranks for ties
    p of Pearson's coefficient    2 min(proportion with r* >= r, proportion with r* <= r), at most 1
    smallest possible p           p of the order of the same values with the largest |r|; 2 / n! without ties

Confidence intervals over models are bias-corrected and accelerated (BCa; Efron 1987), from resamples of n of n models
with replacement. There is no interval if a variable is constant in more than 5% of the resamples:

    limits at the quantiles Phi(z0 + (z0 ± 1.96) / (1 - a (z0 ± 1.96))) of the resampled coefficients
    z0 = Phi^-1(proportion of resamples below r, counting equal ones half)
    a  = sum d^3 / (6 (sum d^2)^(3/2)),   d = mean - r without model i

Confidence intervals over models and images also draw each value from its own confidence interval (low, high) in each
resample. A model that is drawn twice has one value (Owen 2007):

    x* = x + |z| / 1.96 * (high - x  if z > 0,  else  low - x),      z ~ N(0, 1)

The errors of accuracies are drawn jointly for all models, because models are evaluated on the same images. Their
correlations are those of the contributions d_u in `proportions`.
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
"""Number of resamples of the images for a confidence interval."""
FEWEST_CLUSTERS = 20
"""Minimum number of clusters for a percentile interval. With fewer clusters, percentile intervals are too narrow."""
_DRAWS_AT_ONCE = 1 << 20
"""Number of elements in the largest array of cluster draws."""
UNDEFINED = 0.05
"""Maximum proportion of resamples without a coefficient. If there are more, there is no interval."""
BLOCK = 4_000_000
"""Number of elements in the largest temporary array."""


# Resampling of images


def count_right(correct: Mask, ids: Index, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Count correct predictions in the data and in bootstrap resamples of the clusters.

    Args:
        correct: Whether each image is correct under each condition, (conditions, n).
        ids: Cluster index of each image, (n,), from 0 to C - 1.
        resamples: Number of resamples.
        seed: Random seed. It determines the draws.

    Returns:
        Numbers of correct images, (conditions, 1 + resamples), and of images, (1 + resamples,). Column 0 is the data;
        the others draw C clusters with replacement.
    """
    cluster_count = int(ids.max()) + 1
    table = np.stack([np.bincount(ids, weights=row, minlength=cluster_count) for row in correct] + [np.bincount(ids)])
    # Float32 represents integers up to 2^24 exactly, and its matrix products are twice as fast.
    table = table.astype(np.float32 if len(ids) < 1 << 24 else np.float64)
    draws = _kept_draws if draws_are_kept(cluster_count, resamples) else _draws
    resampled = [table @ times.T for times in draws(cluster_count, resamples, seed)]
    counts = np.concatenate([table.sum(axis=1, keepdims=True), *resampled], axis=1).astype(np.float64)
    return counts[:-1], counts[-1]


def draws_are_kept(cluster_count: int, resamples: int) -> bool:
    """Return whether the draws are small enough to be cached. All models of a study use the same draws."""
    return resamples * cluster_count <= _DRAWS_AT_ONCE


def _draws(cluster_count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield how often each cluster is drawn, (..., C), for a block of resamples at a time."""
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
    """Return the lower and upper limits of the central 95% of resampled values."""
    low, high = intervals(values)
    return float(low), float(high)


def intervals(values: Floats) -> tuple[Floats, Floats]:
    """Compute the central 95% of resampled values.

    Args:
        values: Resampled values, (..., resamples).

    Returns:
        Lower and upper limits, (...).
    """
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high


# Resampling of models, for correlations over models


@dataclass(frozen=True, slots=True)
class Interval:
    """95% confidence intervals of a by b coefficients. NaN where more than 5% of the resamples have no coefficient."""

    low: Floats
    """Lower limits, (a, b)."""
    high: Floats
    """Upper limits, (a, b)."""
    undefined: Ints
    """Number of resamples in which one of the two variables is constant, (a, b)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Distances from values to the limits of their 95% confidence intervals, (variables, models), at least 0."""

    down: Floats
    """Distance from the value down to the lower limit. 0 if it has no interval."""
    up: Floats
    """Distance from the value up to the upper limit. 0 if it has no interval."""

    @property
    def has_interval(self) -> Mask:
        """Whether a variable has a confidence interval for at least one model, (variables,)."""
        return np.asarray((self.down > 0).any(axis=-1) | (self.up > 0).any(axis=-1))

    def move(self, values: Floats, normal: Floats) -> Floats:
        """Add random errors to values.

        The limits of the confidence interval of a value become the 2.5% and 97.5% quantiles of the result.

        Args:
            values: Values, (..., variables, models).
            normal: Standard normal random numbers of the same shape.
        """
        return np.asarray(values + normal / Z * np.where(normal > 0, self.up, self.down))


def resample_weights(n: int, resamples: int, seed: int) -> Floats:
    """Draw bootstrap weights.

    Args:
        n: Number of models.
        resamples: Number of resamples of n models with replacement.
        seed: Random seed.

    Returns:
        How often each model is drawn, (resamples, n).
    """
    return np.concatenate([*_draws(n, resamples, seed)]).astype(np.float64)


def bootstrap(method: Method, x: Floats, y: Floats, resamples: int, seed: int) -> Floats:
    """Compute correlation coefficients of bootstrap resamples of the models.

    Args:
        method: "spearman" or "pearson".
        x: Variables, (a, n).
        y: Variables, (b, n).
        resamples: Number of resamples of n models with replacement.
        seed: Random seed.

    Returns:
        Coefficients, (resamples, a, b). NaN where a variable is constant in a resample.
    """
    return _weighted(method, x, y, resample_weights(x.shape[-1], resamples, seed))


def _weighted(method: Method, x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return the coefficients (m, a, b) of x (a, n) with y (b, n) for each row of the weights (m, n)."""
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
    """Compute correlation coefficients of bootstrap resamples of models and images.

    Models are drawn as in `bootstrap`. In addition, each resample draws the value of each model from its own confidence
    interval. The two are independent, and a model that is drawn twice has one value (Owen 2007).

    Args:
        method: "spearman" or "pearson".
        x: Variables, (a, n).
        y: Variables, (b, n).
        x_spread: Confidence intervals of x.
        y_spread: Confidence intervals of y.
        resamples: Number of resamples.
        seed: Random seed.
        shared: Factor loadings of the errors that values have in common because they are measured on the same images,
            (a + b, n, factors), as computed by `shared_factors`. The error of a value whose loadings are all 0 is
            independent of all others.

    Returns:
        Coefficients, (resamples, a, b). NaN where a variable is constant in a resample.
    """
    weights = resample_weights(x.shape[-1], resamples, seed)
    # Separate random streams, so that `shared` does not change the errors of values without factors.
    random, factor_random = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 3])
    resampled = []
    # Only accuracies have factors. Skipping the bias metrics, which are most of the variables, saves products with
    # zeros.
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
    """Compute factor loadings that reproduce the correlations between the errors of proportions.

    Standard normal factors times the loadings have the same correlation matrix as the errors. Two errors are correlated
    if the proportions are measured on the same clusters: their correlation is that of the contributions d_u.

    Args:
        errors: Proportions, or None for values whose error is unknown.

    Returns:
        Loadings, (values, factors). A row is 0 if the error is unknown or 0.
    """
    rows = [k for k, share in enumerate(errors) if share and share.deviations.any()]
    factors = np.zeros((len(errors), len(rows)))
    if rows:
        shares = [share for k in rows if (share := errors[k])]
        clusters = np.unique(np.concatenate([share.clusters for share in shares]))
        d = np.zeros((len(rows), len(clusters)), np.float32)
        for row, share in zip(d, shares, strict=True):
            row[np.searchsorted(clusters, share.clusters)] = share.deviations / np.sqrt((share.deviations**2).sum())
        # The correlation matrix can be singular, so its square root comes from an eigendecomposition instead of a
        # Cholesky decomposition. Eigenvalues that rounding makes negative are set to 0 below.
        length, direction = np.linalg.eigh((d @ d.T).astype(np.float64))
        factors[rows] = direction * np.sqrt(length.clip(0))
    return factors


def bca_intervals(method: Method, x: Floats, y: Floats, *distributions: Floats) -> list[Interval]:
    """Compute bias-corrected and accelerated bootstrap intervals (Efron 1987) of correlation coefficients.

    Args:
        method: "spearman" or "pearson".
        x: Variables, (a, n).
        y: Variables, (b, n).
        *distributions: Resampled coefficients, (resamples, a, b), for example from `bootstrap` and `crossed_bootstrap`.

    Returns:
        95% confidence intervals, one for each distribution.
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
    """Return the given quantiles of the resampled coefficients, pair by pair."""
    missing = np.isnan(resampled)
    ends = np.full((2, *low.shape), np.nan)
    for pair in np.ndindex(low.shape):
        quantiles = np.array([low[pair], high[pair]])
        if missing[:, *pair].mean() <= UNDEFINED and not np.isnan(quantiles).any():
            ends[:, *pair] = np.quantile(resampled[~missing[:, *pair], *pair], quantiles)
    return Interval(ends[0], ends[1], missing.sum(axis=0))


def permutation_p(method: Method, x: Floats, y: Floats, permutations: int, seed: int) -> Floats:
    """Compute two-sided p-values by random permutations (Phipson & Smyth 2010).

    Args:
        method: "spearman" or "pearson".
        x: Variables, (a, n). Their models are shuffled.
        y: Variables, (b, n).
        permutations: Number of random permutations.
        seed: Random seed.

    Returns:
        p-values, (a, b). NaN where a variable is constant.
    """
    n = x.shape[-1]
    order = np.random.default_rng([seed, 2]).permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    once = np.ones(n)
    if method == "spearman":  # Ranks are permuted along with their models, so they are computed once.
        method, x, y = "pearson", centred_ranks(x, once), centred_ranks(y, once)
    observed = np.abs(coefficients(method, x, y, once))
    count = np.zeros(observed.shape)
    for block in _blocks(len(order), x, y):
        shuffled = np.moveaxis(x[:, order[block]], 0, 1)
        # Coefficients that differ only by rounding count as equal.
        count += (np.abs(coefficients(method, shuffled, y, once)) >= observed - 1e-12).sum(axis=0)
    return np.where(np.isnan(observed), np.nan, (1 + count) / (1 + len(order)))


def exact_p(method: Method, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Compute two-sided p-values by enumerating all permutations.

    Args:
        method: "spearman" or "pearson".
        x: Variables, (a, n), n at most `EXACT_MODELS`.
        y: Variables, (b, n).

    Returns:
        p-values, and the smallest p-values that any order of the same values could have, (a, b) each. NaN where a
        variable is constant.
    """
    n = x.shape[-1]
    if method == "spearman":
        x, y = (centred_ranks(values, np.ones(n)) for values in (x, y))
    orders = np.array(list(all_orders(range(n))))
    results = np.ones((2, len(x), len(y)))
    for j, block in product(range(len(y)), _blocks(len(x), orders, y)):
        r = coefficients("pearson", y[j, orders], x[block], np.ones(n))  # The first permutation is the observed order.
        sides = [np.abs(r)] if method == "spearman" else [r, -r]
        for side in sides:
            for p, extreme in zip(results[:, block, j], (side[0], side.max(axis=0)), strict=True):
                np.minimum(p, len(sides) * (side >= extreme - 1e-9).mean(axis=0), out=p)
        results[:, block, j][:, np.isnan(r[0])] = np.nan
    return results[0], results[1]


def _blocks(count: int, x: Floats, y: Floats) -> Iterator[slice]:
    """Yield slices of resamples, or of variables under all permutations, that limit the size of temporary arrays."""
    size = int(np.clip(BLOCK // ((len(x) + len(y)) * x.shape[-1]), 1, 500))
    return (slice(first, first + size) for first in range(0, count, size))
