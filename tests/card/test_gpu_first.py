"""benchmarks/gpu_first: that it measures, on a bare checkout and on a pretended card. How fast, no test asks."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from deferred_card import CudaError
from imports_of_folders import PACKAGE
from pretend_cupy import PretendCupy, compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import make_model

from bandlens.engine.device.devices import Readiness
from bandlens.engine.device.driver import Gpu

ALONE = """
import importlib.abc, sys

class Alone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Alone())
"""
HELD_BACK = (
    *("altair", "cupy", "duckdb", "filelock", "onnx", "onnxruntime", "onnxscript", "openvino", "PIL", "polars"),
    *("pyarrow", "ray", "scipy", "skimage", "tensorrt", "threadpoolctl", "timm", "torchvision", "tqdm", "typer"),
)
ZEROS = ("kernels.words", "kernels.reduced", "speed.growth", "torch.differ")
PARTS = ("bench", "faults", "figures", "networks", "page", "plans", "runs", "speed", "stages")


@pytest.fixture(scope="module")
def program() -> Iterator[SimpleNamespace]:
    """The modules of the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE / "benchmarks"))
        yield SimpleNamespace(**{part: importlib.import_module(f"gpu_first.{part}") for part in PARTS})


def stages_of(folder: Path) -> dict[str, Any]:
    stages: dict[str, Any] = json.loads((folder / "results.json").read_text())["stages"]
    return stages


def figures(folder: Path) -> dict[str, float]:
    stages = stages_of(folder)
    assert {name: stage["line"] for name, stage in stages.items() if stage["state"] == "failed"} == {}
    return {f"{name}.{figure}": value for name, stage in stages.items() for figure, value in stage["figures"].items()}


def test_a_checkout_under_any_name_needs_torch_and_numpy_alone(tmp_path: Path) -> None:
    """In place of CuPy it has NumPy here; threadpoolctl is what engines on the CPU need."""
    checkout, held = tmp_path / "a lab's copy", set(HELD_BACK) - {"threadpoolctl"}
    skipped = shutil.ignore_patterns(".*", "tests", "docs", "__pycache__", "*.csv", "*.parquet")
    shutil.copytree(PACKAGE, checkout, ignore=skipped)
    (tmp_path / "sitecustomize.py").write_text(ALONE.format(blocked=held))
    folder = tmp_path / "results"
    words = [sys.executable, checkout / "benchmarks/gpu_first", "--pretend", "--out", folder]
    result = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 0, result.stdout + result.stderr
    values = figures(folder)
    assert {name: values[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    states = {name: stage["state"] for name, stage in stages_of(folder).items()}
    whole = {"doctor", "kernels", "speed", "share", "torch"}
    assert states == {name: "done" if name in whole else "left out" for name in states}
    assert "left out: no NVIDIA GPU here" in result.stdout
    page = json.loads((folder / "page.json").read_text())
    assert {row["figure"]: row["measured"] for row in page["rows"]}["torch.differ"] == 0


@pytest.fixture
def card(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> PretendCupy:
    library = compile_kernels(tmp_path_factory.mktemp("kernels"))
    xp = pretend_gpu(monkeypatch, kernel_launcher(library))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(program.bench, "readiness", lambda engine: Readiness(engine != "onnxruntime-cuda", "pretended"))
    monkeypatch.setattr(program.bench, "gpus", lambda: (Gpu("Pretended", 1 << 34, "9.0", "580"),))
    monkeypatch.setattr(program.bench, "array_module", lambda _: xp)
    return xp


def test_on_a_card_every_figure_of_the_table_is_measured(
    program: SimpleNamespace, card: PretendCupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def resnet50_with_biases(folder: Path, count: int) -> list[Any]:
        return [make_model(folder, f"resnet50-{k}", classes=1000, seed=k) for k in range(count)]

    def full(shape: Any, dtype: Any = float) -> Any:
        if np.prod(shape) * np.dtype(dtype).itemsize > card.free:
            raise card.cuda.memory.OutOfMemoryError
        return type(card).empty(card, shape, dtype)

    def break_card(xp: PretendCupy) -> None:
        def illegal() -> None:
            raise CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered")

        xp.card.ask(illegal)

    for name, line in (("trtexec", "[I] Throughput: 10.5 qps"), ("compute-sanitizer", "==== ERROR SUMMARY: 0 errors")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{line}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(importlib.import_module("_common"), "resnet50_with_biases", resnet50_with_biases)
    monkeypatch.setattr(program.faults, "break_card", break_card)
    pretended = program.bench.PRETENDED
    bench = program.bench.Bench(False, pretended, time.monotonic() + 1e6, tmp_path)
    for name in program.stages.STAGES:
        with monkeypatch.context() as patch:
            if name == "memory":
                patch.setattr(card, "free", 1 << 27)
                patch.setattr(card, "empty", full, raising=False)
            program.stages.run_stage(bench, name)
        if name == "fault":
            assert card.card.lost is not None
            card.card.lost = None  # the process of the stage has ended
    values = figures(tmp_path)
    assert {name: values[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert values["kernels.normals"] <= 2e-6
    assert 0 < values["kernels.band"] <= 2e-5, "kernels are not NumPy's code"
    assert values["sanitizer.errors"] == 0
    assert values["fault.line"] == values["memory.line"] == 1
    assert values["rates.fp32.4.trtexec"] == pytest.approx(values["rates.fp32.4"] / (4 * 10.5))
    expected_names = {name.replace("fp16.256", "fp32.4") for name in program.figures.FIGURES if "int8" not in name}
    missing = {name for name in expected_names - set(values) if not name.startswith("onnxruntime.")}
    assert missing == set()
    program.page.write_page(tmp_path, program.stages.read_results(bench))
    assert "<td>22 spectral conditions of a batch of 256</td><td>6.2</td>" in (tmp_path / "page.html").read_text()


def test_small_work_is_timed_without_python(program: SimpleNamespace, card: PretendCupy) -> None:
    """An addition takes a microsecond of the pretended card, and Python longer to ask for it."""
    small = card.zeros(32, dtype=np.float32)

    def work() -> None:
        time.sleep(1e-3)
        for _ in range(2):
            card.add(small, 1, out=small)

    assert program.bench.device_seconds(card, work, 5) == pytest.approx(2e-6)
    assert program.bench.device_seconds(np, lambda: time.sleep(1e-3), 5) >= 1e-3


def test_rows_that_no_rounding_explains_are_counted(program: SimpleNamespace) -> None:
    logits = np.array([[3, 2, 1], [3, 3 - 1e-5, 1], [3, 3 - 1e-5, 1], [3, 2, 1]], np.float32)
    possible = program.runs.possible(logits, np.array([1, 1, 1, 2]), np.array([0, 1, 1, 1]), np.array([1, 0, 2, 2]))
    assert possible.tolist() == [True, True, False, False]


def test_a_stage_that_fails_is_on_the_page_and_leaves_the_others_alone(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lost(_: Any) -> Iterator[tuple[str, float]]:
        yield "first", 1.0
        program.bench.seconds_of(np, None, 1)  # fails in bench.py

    stages = program.stages
    stage = stages.Stage
    monkeypatch.setattr(
        stages, "STAGES", {"speed": stage(lost, 1), "kernels": stage(lambda _: iter([("words", 0)]), 1)}
    )
    bench = program.bench.Bench(True, program.bench.PRETENDED, 0.0, tmp_path)
    assert not stages.run_stage(bench, "speed")
    assert stages.run_stage(bench, "kernels")
    failed = stages_of(tmp_path)["speed"]
    assert (failed["state"], failed["figures"]) == ("failed", {"first": 1.0})
    assert failed["line"] == "'NoneType' object is not callable"
    assert failed["place"].startswith("benchmarks/gpu_first/bench.py:")
    program.page.write_page(tmp_path, stages.read_results(bench))
    page = (tmp_path / "page.html").read_text()
    assert all(escape(failed[key]) in page for key in ("line", "place", "command"))
    monkeypatch.setattr(stages, "STAGES", {"speed": stage(lambda _: iter([("first", 2.0)]), 1)})
    assert stages.run_stage(bench, "speed")
    assert figures(tmp_path) == {"speed.first": 2.0, "kernels.words": 0}, "stages that ran earlier are kept"
    resized_bench = replace(bench, sizes=replace(bench.sizes, batch=8))
    assert stages.run_stage(resized_bench, "speed")
    assert figures(tmp_path) == {"speed.first": 2.0}, "but not those of another machine, or of other sizes"


@pytest.mark.parametrize(
    ("code", "limit", "line"),
    [("import time; time.sleep(60)", 1.0, "it had not ended after 1 s"), ("raise SystemExit(7)", 60.0, "code 7")],
)
def test_a_stage_that_hangs_or_crashes_has_failed(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, limit: float, line: str
) -> None:
    monkeypatch.setattr(program.stages, "command_of", lambda *_: [sys.executable, "-S", "-c", code])
    bench = program.bench.make_bench(True, tmp_path)
    program.stages.run_process(bench, "speed", limit)
    record = stages_of(tmp_path)["speed"]
    assert record["state"] == "failed"
    assert line in record["line"]
    assert record["place"] == str(tmp_path / "speed.log")


def test_stages_that_ended_well_are_not_repeated(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started, bench = list[str](), program.bench.make_bench(True, tmp_path)
    results = program.stages.read_results(bench)
    for name, state in (("doctor", "done"), ("kernels", "failed"), ("export", "left out")):
        results["stages"][name] = {"state": state, "figures": {}, "seconds": 1.0}
    program.stages.write_results(tmp_path, results)
    monkeypatch.setattr(program.stages, "run_process", lambda _, name, *__: started.append(name))
    assert not program.stages.run_stages(bench), "the failed stage has not ended well meanwhile"
    assert started == [name for name in program.stages.STAGES if name != "doctor"]


def test_the_stages_fit_an_hour(program: SimpleNamespace) -> None:
    assert sum(stage.limit for stage in program.stages.STAGES.values()) <= 3600


def test_what_would_end_too_late_is_left_out(
    program: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = program.bench.Bench(True, program.bench.Sizes(), time.monotonic() + 5, tmp_path)
    assert list(program.runs.over_bare(bench, {})) == []
    assert capsys.readouterr().out.count("left out: it would take about") == 2


def test_the_list_has_what_was_predicted(program: SimpleNamespace) -> None:
    lines = program.page.markdown_list(program.page.rows_of({"stages": {}})).splitlines()
    assert "- `reduce_logits` of a batch of 256: 4 us" in lines
