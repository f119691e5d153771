"""Statistics that know nothing of the database. All share these kinds of arrays, and the level of their intervals."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Index: TypeAlias = NDArray[np.intp]

ALPHA = 0.05
"""The share of true values that a 95 % interval misses, and the p below which something counts as significant."""
LEVEL = 1 - ALPHA
"""The share of true values that a 95 % interval holds."""
EXACT_MODELS = 8
"""Models up to which a correlation's p counts all permutations: 40,320 for eight."""
Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
