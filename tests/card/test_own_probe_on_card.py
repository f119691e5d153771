"""A user's probe that takes `xp` computes where the run does: its images never leave the card."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretend_cupy import CardArray, real
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures

from bandlens.core.records import Cell, Failed
from bandlens.engine.backends.base import variant_of
from bandlens.engine.task_context import Workbench
from bandlens.engine.tasks import Task
from bandlens.probes.grid import make_grid

COUNT = 6
PROBES = {"with xp": "images, xp, share", "without xp": "images, share"}


@pytest.mark.parametrize("name", PROBES)
def test_images_are_copied_to_the_host_only_for_a_probe_without_xp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any], name: str
) -> None:
    (tmp_path / "fade.py").write_text(
        f"def fade({PROBES[name]}):\n    return images[..., ::-1] * images.dtype.type(share)\n"
    )
    model, grid = make_model(tmp_path), make_grid({"fade": {"file": "fade.py", "share": [0.25, 0.5]}}, tmp_path)
    images = make_images(tmp_path / "images.set", make_pictures(COUNT), labels=list(range(COUNT)))

    def predict(engine: str) -> list[list[int]]:
        cells = tuple(Cell(variant_of(model, engine, "fp32"), images.info, setting, 3) for setting in grid.conditions)
        with Workbench(grid, 4, 1, lambda _: images) as bench:
            outcomes = [outcome for part in bench.compute(Task(cells)) for outcome in part]
        assert not [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
        return [outcome.predictions.predicted.tolist() for outcome in outcomes]

    expected, copied, get = predict("onnxruntime"), list[int](), CardArray.get

    def counted(array: CardArray, stream: Any = None) -> Any:
        if threading.current_thread().name == "perturb" and array.size > 1:
            copied.append(array.size)
        return get(array, stream)

    card = pretend_gpu(monkeypatch, launcher)
    monkeypatch.setattr(CardArray, "get", counted)
    assert real(), "it has been imported before another takes its name"
    monkeypatch.setitem(sys.modules, "cupy", card)
    assert predict("tensorrt") == expected
    assert card.card.lost is None
    assert bool(copied) == (name == "without xp")
