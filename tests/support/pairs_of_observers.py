"""The error consistency of two observers alone."""

from __future__ import annotations

from bandlens.analysis.statistics import Mask, Whole
from bandlens.analysis.statistics.consistency import Consistency, error_consistencies


def error_consistency(
    first: Mask, second: Mask, clusters: Whole | None = None, resamples: int = 2000, seed: int = 0
) -> Consistency:
    """The numbers of two observers of the same images, from whether each is right, (n,) each."""
    columns = error_consistencies(first, second[None], clusters, resamples, seed)
    return Consistency(**{name: column.item() for name, column in columns.items()})
