"""A correlation over models of several families, and whether it holds within families and between them.

Models of one family share an architecture and a recipe, so they are not independent, and what holds between families
need not hold within any (Simpson 1951; Robinson 1950). With R and S the average ranks of x and y over all n models:

    overall   Pearson's coefficient of R and S, that is Spearman's
    within    of R and S less the means of their families; families of one model have nothing to say
    between   of the means of x and of y over the models of each family, Spearman's

p_within shuffles x among the models of each family alone, p_between shuffles whole families; p is two-sided (Phipson &
Smyth 2010). tests compare the first with a mixed model of random intercepts by family (statsmodels).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isnan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ..statistics.arrays import Floats

PERMUTATIONS = 1000
FEWEST_FAMILIES = 4
"""Families that a correlation between their means needs."""


@dataclass(frozen=True, slots=True)
class ByFamily:
    """Coefficients of x with y, NaN where the data do not determine them."""

    n: int
    families: int
    overall: float
    partial: float
    """Spearman's, given z."""
    within: float
    p_within: float
    models_within: int
    """Models whose family has another one."""
    between: float
    p_between: float

    @property
    def signs_differ(self) -> bool:
        """Whether the coefficient within families has another sign than that between them."""
        return self.within * self.between < 0


def by_family(
    x: Floats,
    y: Floats,
    family: NDArray[np.str_],
    z: Floats | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> ByFamily:
    """Coefficients of x (n,) with y (n,) over models of the families (n,); z is held fixed in `partial`."""
    there = ~(np.isnan(x) | np.isnan(y)) & (True if z is None else ~np.isnan(z))
    x, y, family = x[there], y[there], family[there]
    names, of = np.unique(family, return_inverse=True)
    sizes = np.bincount(of, minlength=len(names))
    r, s = rankdata(x), rankdata(y)
    overall = pearson(r, s)
    partial = np.nan
    if z is not None:
        t = rankdata(z[there])
        xz, yz = pearson(r, t), pearson(s, t)
        left = (1 - xz**2) * (1 - yz**2)
        partial = (overall - xz * yz) / sqrt(left) if left > 1e-12 else np.nan
    several = sizes[of] > 1
    inner_r, inner_s = _centred(r, of, sizes)[several], _centred(s, of, sizes)[several]
    within = pearson(inner_r, inner_s)
    inside, whole = _orders(tuple(of[several].tolist()), len(names), permutations, seed)
    means = np.array([np.bincount(of, values) / sizes for values in (x, y)]) if len(names) else np.empty((2, 0))
    enough = len(names) >= FEWEST_FAMILIES
    mean_r, mean_s = rankdata(means[0]), rankdata(means[1])
    between = pearson(mean_r, mean_s) if enough else np.nan
    return ByFamily(
        len(x),
        len(names),
        overall,
        partial,
        within,
        _p(within, inner_r[inside], inner_s),
        int(several.sum()),
        between,
        _p(between, mean_r[whole], mean_s),
    )


@lru_cache(maxsize=4)
def _orders(
    of: tuple[int, ...], families: int, permutations: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Permutations of models within their families, and of families: (permutations, models), (permutations, families).

    A stable order by family, and by random numbers within each.
    """
    random, numbers = np.random.default_rng(seed), np.array(of)
    inside = np.empty((permutations, len(of)), np.intp)
    inside[:, np.argsort(numbers, kind="stable")] = np.argsort(numbers + random.random((permutations, len(of))), axis=1)
    return inside, np.argsort(random.random((permutations, families)), axis=1)


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's coefficient of x and y, (n,) each; NaN where either does not vary."""
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    length = sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / length, -1, 1)) if length > 1e-9 else float("nan")


def _centred(values: Floats, of: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    """Values less the mean of their family."""
    return np.asarray(values - (np.bincount(of, values, len(sizes)) / sizes)[of])


def _p(observed: float, shuffled: Floats, other: Floats) -> float:
    if isnan(observed):
        return float("nan")
    moved, other = shuffled - shuffled.mean(axis=1, keepdims=True), other - other.mean()
    found = moved @ other / np.sqrt((moved**2).sum(axis=1) * (other @ other))
    return float((1 + (np.abs(found) >= abs(observed) - 1e-12).sum()) / (1 + len(shuffled)))
