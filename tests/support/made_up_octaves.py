"""A database of models that live on octaves in a way that the test knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_up_results import cell, condition, image_set, model, part, store_study

from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.probes.octaves import OCTAVE_MASK

WEIGHTS = {
    "coarse": (0.1, 0.2, 0.5, 0.3, 0.1, 0.0, 0.0),
    "fine": (0.0, 0.05, 0.1, 0.4, 0.5, 0.3, -0.15),
    "middle": (0.0, 0.1, 0.2, 0.6, 0.2, 0.0, -0.05),
}
"""Model -> how much of each octave counts for its answer."""
IMAGES = 60


def make_octaves(path: Path) -> None:
    """A study `octaves`: an image is right where the weights of the octaves kept exceed a threshold of its own."""
    masks = OCTAVE_MASK.conditions({})
    thresholds = np.random.default_rng(0).uniform(-0.1, 0.9, IMAGES)
    labels = np.arange(IMAGES) % 3
    images = image_set(IMAGES, name="photographs", labels=labels)
    parts = []
    for name, weights in WEIGHTS.items():
        for setting in [condition(), *masks]:
            kept = "0123456" if setting.probe == "clean" else str(setting["keep"])
            right = sum(weight for octave, weight in enumerate(weights) if str(octave) in kept) > thresholds
            answers = np.where(right, labels, 9)
            parts.append(part(cell(images, setting, by=model(name)), answers, np.where(right, 0, 3)))
    with open_store(path) as store:
        store_study(store, "octaves", images, parts)
        compute_measures(store, "octaves")
