"""A process for each of several pretended cards: their rows are those of one, and a card that is lost is no loss."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from pretend_cupy import compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures, rows_of

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.study_run import run_study
from bandlens.app.study.workers import Workers
from bandlens.core.errors import EngineError
from bandlens.engine import processes
from bandlens.engine.device.nvidia import Gpu

COUNT, BATCH = 48, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two models on a card, and its rows there."""
    folder = tmp_path_factory.mktemp("cards")
    for seed in range(2):
        make_model(folder / "models", f"m{seed}", size=16, seed=seed)
    make_images(folder / "images.set", make_pictures(COUNT, 16), labels=[k % 12 for k in range(COUNT)])
    compile_kernels(folder)
    return folder


@pytest.fixture
def work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    study = Study(
        name="cards",
        checkpoints=["*"],
        models=str(folder / "models"),
        images=[str(folder / "images.set")],
        engine="tensorrt",
        batch=BATCH,
        probes={"lowpass": {"cutoff": [0.1, 0.3]}, "uniform_noise": {"width": 0.35}},
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(processes, "PROGRAM", "card_process")
    monkeypatch.setattr(processes, "gpus", lambda: (Gpu("H100", 1 << 34, "9.0", "580"),) * 2)
    return resolve(study)


@pytest.fixture
def direct(folder: Path, work: Work) -> Path:
    """The database of a run on one card in this process."""
    database = folder / "direct.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch, kernel_launcher(ctypes.CDLL(str(folder / "kernels.so"))), 0)
        assert run_study(work, database).failed == []
    return database


def test_two_cards_give_the_rows_of_one_and_a_lost_card_is_left_to_the_other(
    folder: Path, work: Work, direct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.so").symlink_to(folder / "kernels.so")
    monkeypatch.setenv("CARD_FOLDER", str(tmp_path))
    monkeypatch.setenv("LOST", "1")
    database = tmp_path / "results.duckdb"
    summary = run_study(work, database, 0.0, workers=Workers(("0", "1")))
    assert summary.failed == []
    assert_frame_equal(rows_of(database), rows_of(direct))
    started = (tmp_path / "cards").read_text().split()
    assert started.count("0") == 1
    assert {"0", "1"} == set(started)
    assert (tmp_path / "gone.1").exists()


def test_a_run_without_any_card_left_ends_with_one_line_and_the_next_goes_on(
    folder: Path, work: Work, direct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.so").symlink_to(folder / "kernels.so")
    monkeypatch.setenv("CARD_FOLDER", str(tmp_path))
    monkeypatch.setenv("LOST", "1")
    database = tmp_path / "results.duckdb"
    with pytest.raises(EngineError, match=r"^no worker can run the study: the card has fallen off the bus$"):
        run_study(work, database, 0.0, workers=Workers(("1",)))
    stored = rows_of(database)
    assert_frame_equal(stored, rows_of(direct).join(stored, on=["key", "image_index"], how="semi"))
    monkeypatch.delenv("LOST")
    run_study(work, database, workers=Workers(("0",)))
    assert_frame_equal(rows_of(database), rows_of(direct))
