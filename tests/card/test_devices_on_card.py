"""A process for each of several pretended cards: their rows are those of one, and a card that is lost is no loss."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from pretend_cupy import compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures, rows_of

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.run import run_study
from bandlens.app.study.workers import Workers
from bandlens.core.errors import EngineError, UsageError
from bandlens.engine import processes
from bandlens.engine.device.nvidia import Gpu, NoGpu
from bandlens.engine.processes import environments_of

COUNT, BATCH = 48, 2
CARDS = tuple(Gpu(name, 1 << 34, "9.0", "580") for name in ("H100", "H100", "L4"))


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
    monkeypatch.setattr(processes, "gpus", lambda: CARDS)
    return resolve(study)


@pytest.fixture
def direct(folder: Path, work: Work) -> Path:
    """The database of a run on one card in this process."""
    database = folder / "direct.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch, kernel_launcher(ctypes.CDLL(str(folder / "kernels.so"))), 0)
        assert run_study(work, database).failed == []
    return database


@pytest.mark.parametrize("lost", [None, "1"])
def test_two_cards_give_the_rows_of_one_and_a_lost_card_is_left_to_the_other(
    folder: Path,
    work: Work,
    direct: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str | None,
) -> None:
    (tmp_path / "kernels.so").symlink_to(folder / "kernels.so")
    monkeypatch.setenv("CARD_FOLDER", str(tmp_path))
    if lost:
        monkeypatch.setenv("LOST", lost)
    database = tmp_path / "results.duckdb"
    summary = run_study(work, database, 0.0, workers=Workers(("0", "1")))
    assert summary.failed == []
    assert_frame_equal(rows_of(database), rows_of(direct))
    started = (tmp_path / "cards").read_text().split()
    assert started.count("0") == 1
    assert {"0", "1"} == set(started)
    assert (tmp_path / "gone.1").exists() == bool(lost)


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


@pytest.mark.parametrize(
    ("visible", "names", "cards"),
    [
        (None, ("0", "2"), ["0", "2"]),
        ("5,GPU-7,3", ("1", "0"), ["GPU-7", "5"]),
        (None, ("MIG-a", "MIG-b"), ["MIG-a", "MIG-b"]),
    ],
)
def test_each_process_sees_its_card_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: Sequence[str], cards: list[str]
) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environments_of(names, "tensorrt") == [{"CUDA_VISIBLE_DEVICES": card} for card in cards]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("0", "3"), "--devices 0,3: there is no GPU '3' here; CUDA offers 0 (H100), 1 (H100), 2 (L4)"),
        (("0", "x"), "--devices 0,x: there is no GPU 'x' here"),
        (("",), "--devices : there is no GPU '' here"),
        (("1", "0", "1"), "--devices 1,0,1: GPU 1 is there twice; a process takes a whole GPU"),
        (("cpu", "cpu"), "--devices cpu,cpu: there is no GPU 'cpu' here"),
    ],
)
def test_devices_that_are_not_there_or_there_twice_are_one_line(
    monkeypatch: pytest.MonkeyPatch, names: Sequence[str], words: str
) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UsageError) as caught:
        environments_of(names, "tensorrt")
    assert str(caught.value).startswith(words)


def test_a_machine_without_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: NoGpu("no NVIDIA GPU here"))
    with pytest.raises(EngineError, match=r"^no NVIDIA GPU here, and this engine needs one"):
        environments_of(("0",), "tensorrt")
