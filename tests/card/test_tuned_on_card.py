"""Tuning on a card that is none: the engines of a GPU, the plans that a sweep leaves, and what a study takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretend_cupy import PretendCupy, compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_images, make_model, make_pictures

from bandlens.app.export import Lowering
from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study
from bandlens.app.study.plan import plan_study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.run import make_workbench
from bandlens.core.records import Variant
from bandlens.engine import tuning
from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.device import devices, requirements
from bandlens.engine.device.devices import Readiness
from bandlens.engine.distributed.worker import Worker, job_of
from bandlens.engine.workbench import Workbench
from bandlens.export.normalization import NORMALIZATIONS
from bandlens.export.onnx.precisions import make_onnx_file
from bandlens.export.plans.build import WITHOUT
from bandlens.probes.grid import make_grid

BATCHES = (2, 4, 8)
RATES = {("tensorrt", 4, 1): 50.0, ("tensorrt", 8, 1): 49.0, ("onnxruntime-cuda", 2, 1): 60.0}
"""Rates of the pretended card, 1 where there is none; what is timed on it is Python."""
NORMALIZED_RATES = dict[tuple[str, int, int], float]()
"""The same where images are normalized once; a rate that is not here stays as it is."""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    return kernel_launcher(compile_kernels(tmp_path_factory.mktemp("kernels")))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any]) -> PretendCupy:
    xp, measure = pretend_gpu(monkeypatch, launcher), tuning.measure_rate

    def rate(
        variant: Variant, batch: int, threads: int, _: float, __: int, lanes: int, normalized: bool = False
    ) -> float:
        assert measure(variant, batch, threads, lanes=lanes, normalized=normalized) > 0, "it really runs"
        setting = (variant.engine, batch, lanes)
        return (NORMALIZED_RATES if normalized else {}).get(setting, RATES.get(setting, 1.0))

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


@pytest.mark.parametrize(("gain", "faster"), [(1.005, False), (1.02, True)])
def test_images_are_normalized_once_where_that_is_faster_and_no_word_forbids_it(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, faster: bool
) -> None:
    folder, keys = tmp_path / "models", {"models": str(tmp_path / "models"), "precision": "fp16", "engine": "tensorrt"}
    make_images(tmp_path / "images.set", make_pictures(2))
    models = [make_model(folder, f"m{k}", seed=k, normalization=NORMALIZATIONS["imagenet"]) for k in range(2)]
    for model in models:
        make_onnx_file(model, "fp16")
    keys["probes"] = {"lowpass": {"cutoff": 0.3}}
    study = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], **keys)
    assert not resolve(study).normalized
    monkeypatch.setitem(NORMALIZED_RATES, ("tensorrt", 4, 1), gain * RATES["tensorrt", 4, 1])
    tuned = tuning.tune(models[0], "fp16", 3)
    assert [rate.batch for rate in tuned.rates if rate.normalized] == [4] * faster
    assert normalized_plans(folder) == {"m0.fp16.b4": {False, True} if faster else {False}}
    work = resolve(study)
    assert (work.study.batch, work.normalized) == (4, faster)
    once = " (images normalized once for all networks)" if faster else ""
    assert work.choices[-1] == f"batch: 4{once} by the tuning of {tuned.date}"
    with make_workbench(work) as bench:
        bench.open(dict.fromkeys(cell.variant for cell in work.cells))
        assert {session.normalization is not None for session in bench.sessions.values()} == {faster}
        assert len({session.normalization for session in bench.sessions.values()}) == 1
    job = job_of(study.probes, study.folder, work.image_sets, 4, 1, str(tmp_path), work.cells)
    for file in (folder / "plans").glob("*.json"):
        if file.name != "tuning.json":
            file.unlink()
    assert plan_study(work, tmp_path / "results.duckdb").seconds > 0
    assert normalized_plans(folder) == {"m0.fp16.b4": {faster}}
    with Worker(replace(job, normalized=work.normalized)) as worker:
        worker.open()
    assert normalized_plans(folder) == {"m0.fp16.b4": {faster}, "m1.fp16.b4": {faster}}
    gate_study(study, tmp_path / "results.duckdb", "fp32", "fp16")
    assert normalized_plans(folder) == {
        f"m{k}.{precision}.b4": {faster and precision == "fp16"} for k in range(2) for precision in ("fp16", "fp32")
    }
    named = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], batch=4, **keys)
    assert not resolve(named).normalized
    monkeypatch.setenv(WITHOUT, "normalization")
    work = resolve(study)
    assert (work.study.batch, work.normalized) == (4, False)
    assert not [rate for rate in tuning.tune(models[0], "fp16", 3).rates if rate.normalized]


def normalized_plans(folder: Path) -> dict[str, set[bool]]:
    """Whether images come normalized to the plans of each model and batch."""
    kinds: dict[str, set[bool]] = {}
    for file in (folder / "plans").glob("*.b*.json"):
        kinds.setdefault(file.name.rsplit(".", 2)[0], set()).add(json.loads(file.read_text())["normalized"])
    return kinds


@pytest.mark.parametrize(("batch", "normalized"), [(None, True), (4, False)])
def test_export_builds_the_plans_that_studies_take(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | None, normalized: bool
) -> None:
    model = make_model(tmp_path / "models", normalization=NORMALIZATIONS["imagenet"])
    onnx_file, _ = make_onnx_file(model, "fp16")
    monkeypatch.setitem(NORMALIZED_RATES, ("tensorrt", 4, 1), 2 * RATES["tensorrt", 4, 1])
    tuning.tune(model, "fp16", 3)
    for file in (tmp_path / "models" / "plans").glob("*.b*.json"):
        file.unlink()
    monkeypatch.setattr(devices, "readiness", lambda engine: Readiness(True, f"{engine} pretended"))
    monkeypatch.setattr(devices, "gpus", lambda: (tensorrt_session.device_of("tensorrt").gpu,))
    monkeypatch.setattr(requirements, "load", lambda _: tensorrt_session.device_of("tensorrt").trt)
    build = Lowering(["fp16"], batch=batch).build
    assert build is not None
    build(onnx_file)
    assert normalized_plans(tmp_path / "models") == {"one.fp16.b4": {normalized}}


def test_an_engine_of_one_lane_keeps_to_it_beside_another(card: PretendCupy, tmp_path: Path) -> None:
    """A gate may compare two engines, and takes the tuning of the candidate."""
    models = [make_model(tmp_path / "models", f"m{k}", seed=k) for k in range(2)]
    engines = ("onnxruntime-cuda", "tensorrt")
    with Workbench(make_grid({}, tmp_path), 2, 1, lambda _: make_images(tmp_path, make_pictures(1)), lanes=2) as bench:
        bench.open([variant_of(model, engine, "fp32") for engine in engines for model in models])
        assert [session.lane for session in bench.sessions.values()] == [0, 0, 0, 1]
