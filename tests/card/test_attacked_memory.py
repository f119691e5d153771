"""Memory of a card is free again when an attack opens."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretend_cupy import PretendCupy
from small import make_images, make_model, make_pictures

from bandlens.core.errors import EngineError
from bandlens.core.records import Cell
from bandlens.engine.backends.base import attack_variant, variant_of
from bandlens.engine.tasks import Task
from bandlens.engine.workbench import Workbench
from bandlens.probes.grid import make_grid

COUNT = 8


def test_what_other_sessions_took_of_a_card_is_free_when_an_attack_opens(
    card: PretendCupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, room, free_bytes = make_model(tmp_path), card.free, list[int]()
    images = make_images(tmp_path / "images.set", make_pictures(COUNT), labels=list(range(COUNT)))
    grid = make_grid({"pgd_linf": {"eps": "1/255", "step": "2/255", "steps": 3}}, tmp_path)

    def opens(*_: object) -> None:
        free_bytes.append(card.free)
        raise EngineError("this is all")

    monkeypatch.setattr("bandlens.engine.workbench.open_attacker", opens)
    clean = Cell(variant_of(model, "tensorrt", "fp32"), images.info, grid.clean[0], 0)
    attacked = Cell(attack_variant(model, "tensorrt"), images.info, grid.attacks[0], 0)
    with Workbench(grid, 4, 1, lambda _: images) as place:
        list(place.compute(Task((clean,), 0, COUNT)))
        assert card.free < room
        list(place.compute(Task((attacked,), 0, COUNT)))
    assert free_bytes == [room]
