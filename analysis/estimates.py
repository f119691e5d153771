"""What is known of the correlations of models that have all values: numbers, and words on what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coefficients import Floats, Method, coefficients, p_values, partial
from .model_values import Models
from .resampling import Interval, bca_interval, bootstrap, crossed_bootstrap, permutation_p

FEWEST = 4
"""Models that a correlation needs: of three, not even a perfect order could have p < 0.05."""


def estimates(models: Models, method: Method, resamples: int, seed: int) -> Mapping[str, NDArray[Any]]:
    """Columns of the table of correlations, (a, b) each; with fewer than four models, only n and note."""
    shape = (len(models.x), len(models.y))
    n = np.full(shape, models.n)
    if models.n < FEWEST:
        few = f"{models.n} model{'' if models.n == 1 else 's'}, and a correlation needs {FEWEST}"
        return {"n": n, "note": np.full(shape, few, object)}
    x, y = models.x, models.y
    r = coefficients(method, x, y, np.ones(models.n))
    resampled = bootstrap(method, x, y, resamples, seed)
    interval = bca_interval(method, x, y, resampled)
    with_images = _with_images(models, method, resamples, seed)
    return {
        "n": n,
        "coefficient": r,
        "low": interval.low,
        "high": interval.high,
        **({"low_images": with_images.low, "high_images": with_images.high} if with_images else {}),
        "p": p_values(method, r, x, y),
        "p_permutation": permutation_p(method, x, y, resamples, seed),
        **_partial(models, method),
        **_leave_one_category_out(models, method),
        "note": _notes(models, interval, with_images, resamples),
    }


def _with_images(models: Models, method: Method, resamples: int, seed: int) -> Interval | None:
    """Over models and images; NaN for pairs neither of which has intervals of its own."""
    if not models.over_images.any():
        return None
    x, y = models.x, models.y
    crossed = crossed_bootstrap(method, x, y, models.x_spread, models.y_spread, resamples, seed)
    return bca_interval(method, x, y, np.where(models.over_images, crossed, np.nan))


def _partial(models: Models, method: Method) -> Mapping[str, Floats]:
    """Given z, over the models that have it."""
    there, n = models.z_there, int(models.z_there.sum())
    if models.z is None or n < FEWEST:
        return {}
    x, y, z, once = models.x[:, there], models.y[:, there], models.z[None, there], np.ones(n)
    r, xz, yz = (coefficients(method, *pair, once) for pair in ((x, y), (x, z), (y, z)))
    coefficient, p = partial(method, r, xz[:, 0], yz[:, 0], n)
    return {"partial": coefficient, "partial_p": p}


def _leave_one_category_out(models: Models, method: Method) -> Mapping[str, NDArray[Any]]:
    """The lowest and the highest coefficient without one category, and which; where every one is defined."""
    names = np.unique(models.category).astype(object)
    weights = (models.category != names[:, None]).astype(np.float64)
    if len(names) < 2 or weights.sum(axis=-1).min() < FEWEST:
        return {}
    r = coefficients(method, models.x, models.y, weights)
    lowest, highest = names[np.argmin(r, axis=0)], names[np.argmax(r, axis=0)]
    undefined = np.isnan(r).any(axis=0)
    lowest[undefined] = highest[undefined] = None
    # A minimum with NaN in it is NaN.
    return {
        "loco_low": r.min(axis=0),
        "loco_high": r.max(axis=0),
        "loco_low_category": lowest,
        "loco_high_category": highest,
    }


def _notes(models: Models, interval: Interval, with_images: Interval | None, resamples: int) -> NDArray[Any]:
    """What the numbers rest on, and why some of them are not there; (a, b) of words, or None."""
    shared = _shared_notes(models)
    of_x, of_y = _ties(models.biases, models.x), _ties(models.groups, models.y)
    notes = np.full(interval.low.shape, None, object)
    for i, j in np.ndindex(notes.shape):
        varies = not any(note and note.endswith(CONSTANT) for note in (of_x[i], of_y[j]))
        mine = [of_x[i], of_y[j]]
        if varies:
            mine.append(_interval_note(interval, (i, j), resamples))
            if with_images and models.over_images[i, j] and (note := _interval_note(with_images, (i, j), resamples)):
                mine.append(f"over images: {note}")
            mine += shared
            if models.given in (models.biases[i], models.groups[j]):
                mine.append(f"{models.given} itself is what partial holds fixed")
        notes[i, j] = "; ".join(filter(None, mine)) or None
    return notes


CONSTANT = "does not vary"


def _ties(names: Sequence[str], values: Floats) -> list[str | None]:
    different = [len(np.unique(row)) for row in values]
    return [
        f"{name} {CONSTANT}" if k == 1 else f"{name} has {k} different values" if k < values.shape[-1] else None
        for name, k in zip(names, different, strict=True)
    ]


def _shared_notes(models: Models) -> list[str]:
    notes = []
    names, counts = np.unique(models.category, return_counts=True)
    if len(names) < 2:
        notes.append("one category, so none can be left out")
    elif models.n - counts.max() < FEWEST:
        notes.append(f"without {names[counts.argmax()]} fewer than {FEWEST} models are left")
    with_z = int(models.z_there.sum())
    if models.z is not None and with_z < models.n:
        few = "too few for partial" if with_z < FEWEST else "over which partial is"
        notes.append(f"{with_z} of {models.n} models have {models.given}, {few}")
    return notes


def _interval_note(interval: Interval, pair: tuple[int, int], resamples: int) -> str | None:
    undefined = int(interval.undefined[pair])
    if undefined:
        left = "no interval" if np.isnan(interval.low[pair]) else "left out"
        return f"in {undefined} of {resamples} resamples a variable does not vary: {left}"
    if np.isnan(interval.low[pair]):
        return "all resamples lie on one side of the coefficient: no interval"
    return "every resample has the same coefficient" if interval.low[pair] == interval.high[pair] else None
