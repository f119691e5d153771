"""A process for each of several pretended cards: their rows are those of one, and a card that is lost is no loss."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from pretend_cupy import compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures, rows_of

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.workers import Workers
from bandlens.core.errors import EngineError
from bandlens.engine import processes
from bandlens.engine.device.nvidia import Gpu

COUNT, BATCH = 48, 2


def test_two_cards_give_the_rows_of_one_and_a_lost_card_is_left_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without any card left ends with one line, and the next goes on."""
    for seed in range(2):
        make_model(tmp_path / "models", f"m{seed}", size=16, seed=seed)
    make_images(tmp_path / "images.set", make_pictures(COUNT, 16), labels=[k % 12 for k in range(COUNT)])
    launcher = kernel_launcher(compile_kernels(tmp_path))
    study = Study(
        name="cards",
        checkpoints=["*"],
        models=str(tmp_path / "models"),
        images=[str(tmp_path / "images.set")],
        engine="tensorrt",
        batch=BATCH,
        probes={"lowpass": {"cutoff": [0.1, 0.3]}, "uniform_noise": {"width": 0.35}},
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(processes, "PROGRAM", "card_process")
    monkeypatch.setattr(processes, "gpus", lambda: (Gpu("H100", 1 << 34, "9.0", "580"),) * 2)
    work, direct, database = resolve(study), tmp_path / "direct.duckdb", tmp_path / "results.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch, launcher, 0)
        assert run_study(work, direct).failed == []
    monkeypatch.setenv("CARD_FOLDER", str(tmp_path))
    monkeypatch.setenv("LOST", "1")
    with pytest.raises(EngineError, match=r"^no worker can run the study: the card has fallen off the bus$"):
        run_study(work, database, 0.0, workers=Workers(("1",)))
    stored = rows_of(database)
    assert_frame_equal(stored, rows_of(direct).join(stored, on=["key", "image_index"], how="semi"))
    (tmp_path / "gone.1").unlink()
    (tmp_path / "cards").unlink()
    summary = run_study(work, database, 0.0, workers=Workers(("0", "1")))
    assert summary.failed == []
    assert_frame_equal(rows_of(database), rows_of(direct))
    cards = (tmp_path / "cards").read_text().split()
    assert cards.count("0") == 1
    assert {"0", "1"} == set(cards)
    assert (tmp_path / "gone.1").exists()
