"""A database of models that live on octaves in a way that the test knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_up_results import cell, condition, database_of, image_set, model, part

from bandlens.probes.octaves import OCTAVE_MASK

WEIGHTS = {
    "coarse": (0.1, 0.2, 0.5, 0.3, 0.1, 0.0, 0.0),
    "fine": (0.0, 0.05, 0.1, 0.4, 0.5, 0.3, -0.15),
    "middle": (0.0, 0.1, 0.2, 0.6, 0.2, 0.0, -0.05),
}
"""Model -> how much of each octave counts for its answer."""
IMAGES = 60


def make_octaves(folder: Path) -> None:
    """Fill the folder with results.duckdb, whose study is `octaves`.

    An image is right where the weights of the octaves that a probe keeps exceed a threshold of its own.
    """
    masks = OCTAVE_MASK.conditions({})
    thresholds = np.random.default_rng(0).uniform(-0.1, 0.9, IMAGES)
    labels = np.arange(IMAGES) % 3
    images = image_set(IMAGES, name="photographs", labels=labels)
    parts = []
    for name, weights in WEIGHTS.items():
        for setting in [condition(), *masks]:
            octaves = "0123456" if setting.probe == "clean" else str(setting["keep"])
            hits = sum(weight for octave, weight in enumerate(weights) if str(octave) in octaves) > thresholds
            answers = np.where(hits, labels, 9)
            parts.append(part(cell(images, setting, by=model(name)), answers, np.where(hits, 0, 3)))
    database_of(folder, images, parts, "octaves", measured=True)
