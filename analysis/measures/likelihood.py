"""Many small maximum-likelihood fits at once: damped Fisher scoring in a box, vectorized over the fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from ..statistics.arrays import Floats

Likelihood: TypeAlias = Callable[..., tuple[Floats, Floats, Floats]]
"""likelihood(theta, *data) for R fits with P parameters: theta is (P, R), each array of data (…, R). It gives the
log-likelihood (R,), its gradient (P, R), and the information (P, P, R): minus the expected or approximate second
derivative, positive semidefinite. The arrays are new in each call."""
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
    active, damping = np.arange(start.shape[1]), np.full(start.shape[1], 1e-2)
    state, going_data = [start, *likelihood(start, *data)], list(data)
    for _ in range(MOST_STEPS):
        now, value, gradient, information = state
        trial = np.clip(now + _step(now, gradient, information, damping, low, high), low[:, None], high[:, None])
        attempt = [trial, *likelihood(trial, *going_data)]
        worse = ~(attempt[1] >= value)
        moved = np.abs(trial - now).max(axis=0)
        # Most steps are better, so that it takes less to undo the others than to choose between two arrays.
        for new, old in zip(attempt, state, strict=True):
            np.copyto(new, old, where=worse)
        state = attempt
        damping = np.where(worse, damping * 10, damping / 10)
        going = (moved > 1e-7) & (damping < 1e12)
        if not going.all():
            theta[:, active] = state[0]
            active, damping, *state = (array.compress(going, axis=-1) for array in (active, damping, *state))
            going_data = [array.compress(going, axis=-1) for array in going_data]
            if not len(active):
                return theta
    theta[:, active] = state[0]
    return theta


def _step(theta: Floats, gradient: Floats, information: Floats, damping: Floats, low: Floats, high: Floats) -> Floats:
    outward = ((theta <= low[:, None]) & (gradient < 0)) | ((theta >= high[:, None]) & (gradient > 0))
    free = ~outward
    matrix = information * (free[:, None] & free)
    diagonal = np.einsum("ppr->pr", information)
    # A vanishing diagonal is a parameter without influence here; the floor keeps the system solvable.
    np.einsum("ppr->pr", matrix)[...] += np.where(free, diagonal * damping + 1e-10, 1.0)
    solution = np.linalg.solve(matrix.transpose(2, 0, 1), np.where(free, gradient, 0.0).T[:, :, None])
    return np.ascontiguousarray(solution[:, :, 0].T)
