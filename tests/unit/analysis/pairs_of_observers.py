"""The error consistency of two observers alone, and the kappa of other people's code."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa

from bandlens.analysis.statistics import Ints, Mask
from bandlens.analysis.statistics.consistency import error_consistencies


def error_consistency(first: Mask, second: Mask, clusters: Ints | None = None, resamples: int = 500) -> SimpleNamespace:
    """The numbers of two observers of the same images, from whether each is right, (n,) each."""
    columns = error_consistencies(first, second[None], clusters, resamples)
    return SimpleNamespace(**{name: column.item() for name, column in columns.items()})


def kappa(first: Mask, second: Mask) -> float:
    """Cohen's kappa of two observers, by statsmodels."""
    return float(cohens_kappa(np.bincount(2 * first + second, minlength=4).reshape(2, 2)).kappa)
