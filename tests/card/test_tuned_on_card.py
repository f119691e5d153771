"""Tuning on a card that is none: the engines of a GPU, the plans that a sweep leaves, and what a study takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deferred_card import Graph
from pretend_cupy import PretendCupy
from pretend_gpu import pretend_gpu
from small import ask, make_images, make_model, make_pictures

from bandlens.app.api.export import Lowering, lower
from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study_precision
from bandlens.app.study.resolve import resolve
from bandlens.core.records import Variant
from bandlens.engine import tuning
from bandlens.engine.backends.base import open_session, plan_file_of, variant_of
from bandlens.engine.backends.tensorrt import shared_device
from bandlens.engine.device import devices
from bandlens.engine.device.devices import Readiness
from bandlens.engine.device.streams import network_stream
from bandlens.export.onnx.precisions import make_onnx_file
from bandlens.export.plans.plans import ensure_trt_plan
from bandlens.export.reference_images import photograph_crops
from bandlens.probes.arrays import to_numpy

BATCHES = (2, 4, 8)
RATES = {(4, ""): 50.0, (8, ""): 49.0, (4, "level"): 51.0, (4, "tiling"): 60.0}
"""Images a second of the pretended card by batch and settings, 1 by default; what is timed on it is Python."""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any]) -> PretendCupy:
    xp, measure = pretend_gpu(monkeypatch, launcher), tuning.measure_rate

    def rate(variant: Variant, batch: int, threads: int, *_: float, settings: str) -> float:
        assert measure(variant, batch, threads, settings=settings) > 0, "it really runs"
        return RATES.get((batch, settings), 1.0)

    monkeypatch.setattr(tuning, "measure_rate", rate)
    monkeypatch.setattr(tuning, "BATCHES", {"cupy": BATCHES})
    return xp


def test_a_sweep_keeps_the_plans_that_were_there_and_the_fastest_one(card: PretendCupy, tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", make_pictures(2))
    model = make_model(tmp_path / "models")
    make_onnx_file(model, "fp16")
    open_session(variant_of(model, "tensorrt", "fp16"), 2, 0).__exit__(None, None, None)
    tuned = tuning.tune(model, "fp16", 3)
    rates = [(rate.engine, rate.batch, rate.images_per_second, rate.settings) for rate in tuned.rates]
    assert rates == [("tensorrt", 2, 1, ""), ("tensorrt", 4, 60, "tiling"), ("tensorrt", 8, 49, "")]
    assert tuned.device == "Pretended (9.0), driver 580"
    descriptions = [json.loads(file.read_text()) for file in (tmp_path / "models" / "plans").glob("*.b*.json")]
    assert {(about["batch"], about["settings"]) for about in descriptions} == {(2, ""), (4, "tiling")}
    assert len([*(tmp_path / "models" / "plans").glob("*.plan")]) == 2
    keys = {"models": str(tmp_path / "models"), "precision": "fp16", "probes": {"lowpass": {"cutoff": 0.3}}}
    study = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], **keys)
    work = resolve(study)
    assert (work.study.engine, work.study.batch) == ("tensorrt", 4), "it is neither the other plan's nor the larger one"
    assert work.choices[-1] == f"batch: 4 by the tuning of {tuned.date}"
    assert tuning.usual_rate("tensorrt", "fp16", tmp_path / "models").batch == 4
    assert tuning.usual_rate("tensorrt", "fp32", tmp_path / "models").batch == 256
    file = tmp_path / "models" / "plans" / "tuning.json"
    file.write_text(json.dumps(json.loads(file.read_text().replace("driver 580", "driver 570"))))
    assert tuning.usual_rate("tensorrt", "fp16", tmp_path / "models").batch == 256


def test_export_builds_and_compares_the_plans_that_studies_take(
    card: PretendCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [make_model(tmp_path / "models", f"m{seed}", seed=seed) for seed in range(2)]
    for model in models:
        make_onnx_file(model, "fp16")
    tuning.tune(models[0], "fp16", 3)
    monkeypatch.setattr(devices, "readiness", lambda engine: Readiness(True, f"{engine} pretended"))
    for model in models:
        [row] = lower(model, Lowering(["fp16"]))
        about = json.loads(Path(row["trt_plan"]).with_suffix(".json").read_text())
        assert (about["batch"], about["settings"], about["parity"]["images"]) == (4, "tiling", 12)


def test_what_is_timed_is_one_replay_while_networks_have_nothing_else_to_do(
    monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any], tmp_path: Path
) -> None:
    xp, seconds = pretend_gpu(monkeypatch, launcher, seed=1), count()
    are_busy, graphs = list[bool](), list[tuple[int, int]]()

    def read_clock() -> int:
        are_busy.append(bool(network_stream(xp).queue))
        graphs.append((Graph.recorded, Graph.launched))
        return next(seconds)

    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=read_clock))
    assert tuning.measure_rate(variant_of(make_model(tmp_path), "tensorrt", "fp32"), 2, 0) == 2
    assert are_busy == [False, False]
    assert graphs[1] == (graphs[0][0], graphs[0][1] + 1)


def test_what_is_timed_are_photographs(card: PretendCupy) -> None:
    """A card's clocks depend on the numbers that it computes with."""
    images = to_numpy(tuning.sample_images(card, 32, 30))
    crops = photograph_crops(32)
    np.testing.assert_array_equal(images[:12], crops)
    np.testing.assert_array_equal(images[24:], images[:6])
    assert 0 <= images.min() < images.max() <= 1
    assert 0.02 < np.abs(images[12:24] - crops).mean() < 0.2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_gate_takes_the_batch_of_the_plans_that_a_run_will_use(
    monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any], tmp_path: Path, precision: str
) -> None:
    pretend_gpu(monkeypatch, launcher)
    make_images(tmp_path / "images.set", make_pictures(2))
    model, probes = make_model(tmp_path / "models"), {"lowpass": {"cutoff": 0.3}}
    make_onnx_file(model, "fp16")
    half, device = plan_file_of(variant_of(model, "tensorrt", precision)), shared_device()
    ensure_trt_plan(device.trt, half, device.target(8, ""))
    folders = {"models": str(tmp_path / "models"), "images": [str(tmp_path / "images.set")]}
    study = Study(name="gated", checkpoints=["*"], engine="tensorrt", precision=precision, probes=probes, **folders)
    gated = gate_study_precision(study, tmp_path / "results.duckdb", "fp32", precision)
    assert gated.run_summary.cells == 4
    sessions = ask(tmp_path / "results.duckdb", "SELECT DISTINCT precision, batch FROM session ORDER BY ALL", ())
    assert sessions == sorted([(precision, 8), ("fp32", 8)])
