"""Probes of a user's own: their files, and the images that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(source)` writes mine.py, and `write(source, "helper.py")` what it imports."""

    def write(source: str, name: str = "mine.py") -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(source, encoding="utf-8")
        return file

    return write


def run(
    folder: Path,
    table: dict[str, Any],
    pixels: NDArray[np.uint8],
    keys: Sequence[int] = (5, 6, 2**64 - 1),
    positions: Sequence[int] = (0, 1, 2),
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """The images that the probe `mirror` in mine.py makes, by the names of its conditions."""
    grid = make_grid({"mirror": {"file": "mine.py"} | table}, folder)
    ((_, conditions),) = grid.groups([c for c in grid.conditions if c.probe == "mirror"])
    perturb = grid.families["mirror"].perturb
    assert perturb is not None
    batch = Batch(pixels, np.array(keys, np.uint64), np.array(positions), seed)
    outputs = perturb(np, batch, conditions, lambda: np.empty(pixels.shape, np.float32))
    return {str(condition): images.copy() for condition, images in outputs}
