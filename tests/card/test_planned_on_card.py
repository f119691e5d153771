"""The time that `plan` measures on a card: of work that is replayed, and within the memory that there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pretend_tensorrt
import pytest
from deferred_card import Graph
from pretend_cupy import PretendCupy
from small import ask, make_images, make_model, make_pictures

from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study_precision
from bandlens.core.records import Variant
from bandlens.engine import tuning
from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.backends.base import plan_file_of, variant_of
from bandlens.engine.tuning import measure_rate
from bandlens.export.onnx.precisions import make_onnx_file
from bandlens.export.plans import plans

BATCH = 8


@pytest.fixture
def study(tmp_path: Path) -> Study:
    make_images(tmp_path / "images.set", make_pictures(2))
    return Study(name="timed", checkpoints=["*"], images=[str(tmp_path / "images.set")], batch=BATCH)


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    return variant_of(make_model(tmp_path), "tensorrt", "fp32")


def test_the_batch_that_is_timed_is_a_replay(
    card: PretendCupy, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, executing = list[str](), pretend_tensorrt.Context.execute_async_v3
    launching = Graph.launch

    def execute(context: Any, stream: int) -> bool:
        events.append("plain or captured")
        return executing(context, stream)

    def launch(graph: Graph, stream: Any) -> None:
        events.append("replayed")
        launching(graph, stream)

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    monkeypatch.setattr(pretend_tensorrt.Context, "execute_async_v3", execute)
    monkeypatch.setattr(Graph, "launch", launch)
    monkeypatch.setattr(tuning.time, "perf_counter", clock)
    assert measure_rate(variant, BATCH, 1) == BATCH / 2
    assert events[-3:] == ["clock", "replayed", "clock"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_gate_takes_the_batch_of_the_plans_that_a_run_will_use(
    card: PretendCupy, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    model = make_model(tmp_path / "models")
    make_onnx_file(model, "fp16")
    half = plan_file_of(variant_of(model, "tensorrt", precision))
    device = tensorrt_session.shared_device()
    plans.ensure_trt_plan(device.trt, half, device.target(BATCH, ""))
    keys = {"models": str(tmp_path / "models"), "engine": "tensorrt", "precision": precision, "batch": 0}
    keys |= {"probes": {"lowpass": {"cutoff": 0.3}}}
    gated = gate_study_precision(replace(study, toml="", **keys), tmp_path / "results.duckdb", "fp32", precision)
    assert gated.run_summary["cells"] == 4
    sessions = ask(tmp_path / "results.duckdb", "SELECT DISTINCT precision, batch FROM session ORDER BY ALL", ())
    assert sessions == sorted([(precision, BATCH), ("fp32", BATCH)])
