"""Parts of cells as workers write them into shards, with made-up predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bandlens.core.records import Cell, Condition, Finished, ImageSetInfo, Model, Predictions, SessionInfo, Variant

INFO = SessionInfo("a processor", 8, 1, '{"onnxruntime": "1"}')
MODEL = Model("one", "own", "small", "w", "random", "none", Path("one.onnx"), "m", 224, 1000)
VARIANT = Variant(MODEL, "onnxruntime", "fp32", MODEL.path, "m")
KEY = "k" * 64


def cell(number: int) -> Cell:
    images = ImageSetInfo("set", "set", "s", 1000, 224, "none", labelled=True)
    return Cell(VARIANT, images, Condition("lowpass", (("cutoff", number),), str(number)), 0)


def parts(
    cells: int = 3, first: int = 16, count: int = 8, labelled: bool = True, seed: int = 0, several: bool = False
) -> list[Finished]:
    rng = np.random.default_rng(seed)
    return [
        Finished(
            cell(number),
            first,
            Predictions(
                rng.integers(0, 1000, count).astype(np.uint16),
                rng.integers(0, 1000, count).astype(np.uint16) if labelled else None,
                rng.random(count, np.float32),
                rng.integers(0, 1000, count).astype(np.uint16) if several else None,
            ),
            0.5 + number,
        )
        for number in range(cells)
    ]
