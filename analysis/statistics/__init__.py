"""Statistics on NumPy arrays, independent of the results database: array types and significance level."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Index: TypeAlias = NDArray[np.intp]

ALPHA = 0.05
"""Significance level. It is also the probability that a 95% confidence interval misses the true value."""
LEVEL = 1 - ALPHA
"""Nominal coverage of a confidence interval."""
EXACT_MODELS = 8
"""Largest number of models for which a correlation test enumerates all permutations, 40,320 of eight models."""
Z = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""
