"""The values that test_golden.py compares with; `python tests/unit/probes/golden.py` writes them.

Do so only together with a new version of the family whose numbers changed: results made before the change have other
condition digests then, and are not mixed with those made after it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))  # for a run without pytest
from stimuli import SAMPLES

FILE = Path(__file__).with_suffix(".json")
PIXELS = [(0, 0), (17, 130), (111, 112), (223, 223)]


def picture() -> NDArray[np.uint8]:
    """(1, 3, 224, 224): waves of several frequencies with hard edges, so that every condition changes it."""
    y, x = np.mgrid[:224, :224]
    channels = [np.sin(x * k / 9) + np.cos(y * k / 4) + ((x // 28 + y // 14) % 2) for k in (1, 2, 3)]
    return np.round(255 * (np.stack(channels) + 2) / 5).astype(np.uint8)[None]


def outcomes() -> dict[str, dict[str, object]]:
    """Condition -> its digest, the mean of the images, and a few pixels of each channel."""
    grid = make_grid(SAMPLES, Path())
    facts = {}
    for perturb, conditions in grid.groups(grid.conditions):
        batch = Batch(picture(), np.array([0x0123456789ABCDEF], np.uint64), np.array([1234]), 99)
        for condition, images in perturb(np, batch, conditions, lambda: np.empty((1, 3, 224, 224), np.float32)):
            values = [float(images[0, channel, y, x]) for channel in range(3) for y, x in PIXELS]
            # Words may change; what a condition is called here does not.
            name = " ".join([condition.probe, *(f"{key}={value}" for key, value in condition.parameters)])
            facts[name] = {
                "digest": condition.digest,
                "mean": round(float(images.mean(dtype=np.float64)), 6),
                "pixels": [round(value, 6) for value in values],
            }
    return facts


if __name__ == "__main__":
    FILE.write_text(json.dumps(outcomes(), indent=0, sort_keys=True) + "\n", encoding="utf-8")
