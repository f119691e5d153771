"""Wilson's interval of a share (Wilson 1927).

The macros `wilson_low` and `wilson_high` of the database say the same in SQL; a test compares them.
"""

from __future__ import annotations

import numpy as np

from .arrays import Floats, Z


def wilson(share: Floats | float, n: Floats | float) -> tuple[Floats, Floats]:
    """Ends (low, high) of the 95 % interval of shares in [0, 1] of n > 0 independent images; any shapes that broadcast.

    n need not be whole: dependent images count as fewer.
    """
    share, z2 = np.asarray(share, dtype=np.float64), Z**2 / np.asarray(n, dtype=np.float64)
    centre, half = (share + z2 / 2) / (1 + z2), np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return np.minimum(share, centre - half).clip(0), np.maximum(share, centre + half).clip(max=1)
