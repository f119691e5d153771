"""Many small maximum-likelihood fits at once: damped Fisher scoring in a box, vectorized over the fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from ..statistics.arrays import Floats

Likelihood: TypeAlias = Callable[..., tuple[Floats, Floats, Floats]]
"""likelihood(theta, *data) for R fits with P parameters: theta is (P, R), each array of data (…, R). It gives the
log-likelihood (R,), its gradient (R, P), and the information (R, P, P): minus the expected or approximate second
derivative, positive semidefinite."""
MOST_STEPS = 200


def best_start(candidates: Iterable[tuple[Sequence[float], Floats]]) -> Floats:
    """The likeliest start of each fit, (P, R): from starts of P parameters, and the log-likelihood (R,) of each.

    The likelihoods have to be those of the fit to the bit, since steps are judged by these.
    """
    starts = list[Sequence[float]]()
    top, best = np.empty(0), np.empty(0, np.intp)
    for start, value in candidates:
        if not starts:
            top, best = np.full(value.shape, -np.inf), np.zeros(value.shape, np.intp)
        best[value > top] = len(starts)
        top = np.fmax(top, value)
        starts.append(start)
    if not starts:
        raise ValueError("no starts")
    return np.ascontiguousarray(np.array(starts, dtype=np.float64)[best].T)


def maximize(likelihood: Likelihood, start: Floats, low: Floats, high: Floats, data: Sequence[Floats]) -> Floats:
    """The optimum (P, R) of each fit within low <= theta <= high, both (P,), from `start` (P, R).

    A step solves (I + damping diag I) step = gradient, without the parameters that push against a bound; it is taken
    only if the likelihood does not fall. A fit ends when steps are below 1e-7 or no step helps.
    """
    theta = start.copy()
    active = np.arange(theta.shape[1])
    now, going_data = theta, list(data)
    value, gradient, information = likelihood(now, *going_data)
    damping = np.full(now.shape[1], 1e-2)
    for _ in range(MOST_STEPS):
        trial = np.clip(now + _step(now, gradient, information, damping, low, high), low[:, None], high[:, None])
        new_value, new_gradient, new_information = likelihood(trial, *going_data)
        better = new_value >= value
        moved = np.abs(trial - now).max(axis=0)
        now = np.where(better, trial, now)
        value = np.where(better, new_value, value)
        gradient = np.where(better[:, None], new_gradient, gradient)
        information = np.where(better[:, None, None], new_information, information)
        damping = np.where(better, damping / 10, damping * 10)
        theta[:, active] = now
        going = (moved > 1e-7) & (damping < 1e12)
        if not going.any():
            break
        active, now, going_data = active[going], now[:, going], [array[..., going] for array in going_data]
        value, gradient, information, damping = value[going], gradient[going], information[going], damping[going]
    return theta


def _step(theta: Floats, gradient: Floats, information: Floats, damping: Floats, low: Floats, high: Floats) -> Floats:
    outward = ((theta <= low[:, None]).T & (gradient < 0)) | ((theta >= high[:, None]).T & (gradient > 0))
    free = ~outward
    matrix = information * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("rpp->rp", information)
    # A vanishing diagonal is a parameter without influence here; the floor keeps the system solvable.
    added = np.where(free, diagonal * damping[:, None] + 1e-10, 1.0)
    matrix[:, range(len(low)), range(len(low))] += added
    solution = np.linalg.solve(matrix, np.where(free, gradient, 0.0)[:, :, None])
    return np.asarray(solution[:, :, 0].T, dtype=np.float64)
