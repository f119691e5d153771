"""Whether a correlation over models holds within families and between them.

What holds between families need not hold within any (Simpson 1951; Robinson 1950). With R and S the average ranks of x
and y over all n models:

    overall   Pearson's coefficient of R and S, that is Spearman's
    within    of R and S less the means of their families; families of one model do not count
    between   Spearman's, of the means of x and of y over the models of each family

p_within shuffles x within each family, p_between whole families; p is two-sided (Phipson & Smyth 2010). With
eight families or fewer, p_between counts all permutations (`resampling`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isnan, sqrt

import numpy as np
import scipy
from numpy.typing import NDArray

from ..statistics import EXACT_MODELS, Floats
from ..statistics.coefficients import partial
from ..statistics.resampling import exact_p

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


def by_family(
    x: Floats,
    y: Floats,
    family: NDArray[np.str_],
    z: Floats | None = None,
) -> ByFamily:
    """Coefficients of x (n,) with y (n,) over models of the families (n,); z is held fixed in `partial`."""
    has_values = ~(np.isnan(x) | np.isnan(y)) & (True if z is None else ~np.isnan(z))
    x, y, family = x[has_values], y[has_values], family[has_values]
    names, place = np.unique(family, return_inverse=True)
    sizes = np.bincount(place, minlength=len(names))
    r, s = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
    overall, given_z = pearson(r, s), np.nan
    if z is not None:
        t = scipy.stats.rankdata(z[has_values])
        given_z = partial(np.array([[overall]]), np.array([pearson(r, t)]), np.array([pearson(s, t)])).item()
    in_family = sizes[place] > 1
    inner_r, inner_s = _centred(r, place, sizes)[in_family], _centred(s, place, sizes)[in_family]
    within = pearson(inner_r, inner_s)
    orders_within, orders_of_families = _orders(tuple(place[in_family].tolist()), len(names))
    means = np.array([np.bincount(place, values) / sizes for values in (x, y)]) if len(names) else np.empty((2, 0))
    has_families = len(names) >= FEWEST_FAMILIES
    mean_r, mean_s = scipy.stats.rankdata(means[0]), scipy.stats.rankdata(means[1])
    between = pearson(mean_r, mean_s) if has_families else np.nan
    if has_families and len(names) <= EXACT_MODELS:
        p_between = exact_p("spearman", mean_r[None], mean_s[None])[0].item()
    else:
        p_between = _p(between, mean_r[orders_of_families], mean_s)
    return ByFamily(
        len(x),
        len(names),
        overall,
        given_z,
        within,
        _p(within, inner_r[orders_within], inner_s),
        int(in_family.sum()),
        between,
        p_between,
    )


@lru_cache(maxsize=4)
def _orders(family_of: tuple[int, ...], families: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Permutations of models within their families, and of families: (PERMUTATIONS, models), (PERMUTATIONS, families).

    A stable order by family, and by random numbers within each.
    """
    random, numbers = np.random.default_rng(0), np.array(family_of)
    inside = np.empty((PERMUTATIONS, len(family_of)), np.intp)
    inside[:, np.argsort(numbers, kind="stable")] = np.argsort(
        numbers + random.random((PERMUTATIONS, len(family_of))), axis=1
    )
    return inside, np.argsort(random.random((PERMUTATIONS, families)), axis=1)


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's coefficient of x and y, (n,) each; NaN where either does not vary."""
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    length = sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / length, -1, 1)) if length > 1e-9 else float("nan")


def _centred(values: Floats, family_of: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    """Values less the mean of their family."""
    return np.asarray(values - (np.bincount(family_of, values, len(sizes)) / sizes)[family_of])


def _p(observed: float, shuffled: Floats, centred_y: Floats) -> float:
    if isnan(observed):
        return float("nan")
    centred, centred_y = shuffled - shuffled.mean(axis=1, keepdims=True), centred_y - centred_y.mean()
    coefficients = centred @ centred_y / np.sqrt((centred**2).sum(axis=1) * (centred_y @ centred_y))
    return float((1 + (np.abs(coefficients) >= abs(observed) - 1e-12).sum()) / (1 + len(shuffled)))
