"""Cells of a group give their parts together: each its own rows, and the host gets three arrays in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandlens.core.records import Cell, Condition, Failed, Finished, ImageSetInfo, Model, Variant
from bandlens.engine import cell_progress
from bandlens.engine.cell_progress import CellProgress, flush
from bandlens.probes.arrays import to_numpy


def cells(count: int) -> list[Cell]:
    model = Model("m", "own", "a", "0" * 64, "s", "none", Path("m.onnx"), "0" * 64, 8, 12)
    variant = Variant(model, "onnxruntime", "fp32", model.path, model.sha256)
    images = ImageSetInfo("i", "b", "0" * 64, 100, 8, "none", labelled=True)
    return [Cell(variant, images, Condition("lowpass", (("cutoff", k / 10),), f"{k}"), 0) for k in range(count)]


def columns(rng: np.random.Generator, count: int, labelled: bool) -> Any:
    predicted, rank = (rng.integers(0, 12, count).astype(np.uint16) for _ in range(2))
    return predicted, rank if labelled else None, rng.random(count, np.float32)


@pytest.mark.parametrize("labelled", [True, False])
def test_each_cell_gets_its_own_rows_and_three_arrays_are_copied(
    monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    copied = list[int]()
    monkeypatch.setattr(cell_progress, "to_numpy", lambda array: (copied.append(len(array)), to_numpy(array))[1])
    rng, works = np.random.default_rng(0), [CellProgress(cell, 10 * k) for k, cell in enumerate(cells(5))]
    for work, sizes in zip(works, ([4, 4], [], [3], [4, 1], [2]), strict=True):
        work.columns = [columns(rng, size, labelled) for size in sizes]
        work.times, work.pending = [(0.0, 0.5)] * len(sizes), sum(sizes)
    works[2].error = "it failed"
    works[4].columns[0][2][1] = np.nan
    expected = [np.concatenate([piece[0] for piece in works[k].columns]) for k in (0, 3)]
    outcomes = flush(np, works)
    assert [type(outcome) for outcome in outcomes] == [Finished, Failed, Finished, Failed]
    first, failed, second, not_finite = outcomes
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    for part, rows, start, seconds in ((first, expected[0], 0, 1.0), (second, expected[1], 30, 1.0)):
        np.testing.assert_array_equal(part.predictions.predicted, rows)
        assert (part.predictions.label_rank is not None) == labelled
        assert (part.first, part.seconds) == (start, seconds)
    assert isinstance(failed, Failed)
    assert failed.error == "it failed"
    assert isinstance(not_finite, Failed)
    assert not_finite.error.startswith("logits are not finite at image 41;")
    assert copied == [15] * (3 if labelled else 2)
    assert flush(np, works) == [], "what was yielded is not yielded again"
    assert [work.first for work in works] == [8, 10, 20, 35, 40]
