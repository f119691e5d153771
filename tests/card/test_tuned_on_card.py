"""Tuning on a card that is none: the engines of a GPU, the plans that a sweep leaves, and what a study takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pretend_cupy import PretendCupy
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.run import make_workbench
from bandlens.engine import tuning
from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.distributed.worker import Worker, job_of
from bandlens.engine.workbench import Workbench
from bandlens.export.onnx.precisions import make_onnx_file
from bandlens.export.plans.build import WITHOUT
from bandlens.probes.grid import make_grid
from bandlens.records import Variant

BATCHES = (2, 4, 8)
RATES = {("tensorrt", 4, 1): 50.0, ("tensorrt", 8, 1): 49.0, ("onnxruntime-cuda", 2, 1): 60.0}
"""Rates of the pretended card, 1 where there is none; what is timed on it is Python."""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> PretendCupy:
    xp, measure = pretend_gpu(monkeypatch), tuning.measure_rate

    def rate(variant: Variant, batch: int, threads: int, _: float, __: int, lanes: int) -> float:
        assert measure(variant, batch, threads, lanes=lanes) > 0, "it really runs"
        return RATES.get((variant.engine, batch, lanes), 1.0)

    monkeypatch.setattr(tuning, "measure_rate", rate)
    monkeypatch.setattr(tuning, "BATCHES", {"cupy": BATCHES})
    return xp


def test_a_sweep_keeps_the_plans_that_were_there_and_those_of_the_best_batch(card: PretendCupy, tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", make_pictures(2))
    model = make_model(tmp_path / "models")
    make_onnx_file(model, "fp16")
    open_session(variant_of(model, "tensorrt", "fp16"), 2, 0).__exit__(None, None, None)
    tuned = tuning.tune(model, "fp16", 3)
    runs = [("tensorrt", 1), ("tensorrt", 2), ("onnxruntime-cuda", 1), ("torch-cuda", 1)]
    assert [(rate.engine, rate.lanes, rate.batch) for rate in tuned.rates] == [
        (*run, batch) for run in runs for batch in BATCHES
    ]
    assert tuned.device == "Pretended (9.0), driver 580"
    plans = sorted(path.name.split(".")[2] for path in (tmp_path / "models" / "plans").glob("*.plan"))
    assert plans == ["b2", "b4"]
    keys = {"models": str(tmp_path / "models"), "precision": "fp16", "probes": {"lowpass": {"cutoff": 0.3}}}
    study = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], **keys)
    work = resolve(study)
    assert (work.study.engine, work.study.batch) == ("onnxruntime-cuda", 2)
    named = resolve(
        Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], engine="tensorrt", **keys)
    )
    assert named.study.batch == 4, "neither that of the other plan, nor the larger one"
    assert named.choices == [f"batch: 4 by the tuning of {tuned.date}"]
    assert tuning.usual_batch("tensorrt", "fp16", tmp_path / "models") == 4
    assert tuning.usual_batch("tensorrt", "fp32", tmp_path / "models") == 256
    file = tmp_path / "models" / "plans" / "tuning.json"
    file.write_text(json.dumps(json.loads(file.read_text().replace("driver 580", "driver 570"))))
    assert resolve(study).study.engine == "tensorrt"
    assert tuning.usual_batch("tensorrt", "fp16", tmp_path / "models") == 256


def test_networks_run_two_at_a_time_where_that_is_faster_and_no_word_forbids_it(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images.set", make_pictures(2))
    models = [make_model(tmp_path / "models", f"m{k}", seed=k) for k in range(3)]
    keys = {"models": str(tmp_path / "models"), "probes": {"lowpass": {"cutoff": 0.3}}}
    study = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], **keys)
    assert resolve(study).lanes == 1
    monkeypatch.setitem(RATES, ("tensorrt", 2, 2), 70.0)
    tuned = tuning.tune(models[0], "fp32", 3)
    work = resolve(study)
    assert (work.study.engine, work.study.batch, work.lanes) == ("tensorrt", 2, 2)
    assert work.choices[-1] == f"batch: 2 of 2 networks at a time by the tuning of {tuned.date}"
    with make_workbench(work) as bench:
        bench.open(dict.fromkeys(cell.variant for cell in work.cells))
        assert [session.lane for session in bench.sessions.values()] == [0, 1, 0]
    job = job_of(study.probes, study.folder, work.image_sets, 2, 1, str(tmp_path), work.cells)
    with Worker(replace(job, lanes=2)) as worker:
        worker.open()
        assert len(tensorrt_session.device_of("tensorrt").lanes[1].sessions) == 1
    named = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], batch=2, **keys)
    assert resolve(named).lanes == 1
    monkeypatch.setenv(WITHOUT, "lanes")
    work = resolve(study)
    assert (work.study.engine, work.study.batch, work.lanes) == ("onnxruntime-cuda", 2, 1)
    assert {rate.lanes for rate in tuning.tune(models[0], "fp32", 3).rates} == {1}


def test_an_engine_of_one_lane_keeps_to_it_beside_another(card: PretendCupy, tmp_path: Path) -> None:
    """A gate may compare two engines, and takes the tuning of the candidate."""
    models = [make_model(tmp_path / "models", f"m{k}", seed=k) for k in range(2)]
    engines = ("onnxruntime-cuda", "tensorrt")
    with Workbench(make_grid({}, tmp_path), 2, 1, lambda _: make_images(tmp_path, make_pictures(1)), lanes=2) as bench:
        bench.open([variant_of(model, engine, "fp32") for engine in engines for model in models])
        assert [session.lane for session in bench.sessions.values()] == [0, 0, 0, 1]
