"""benchmarks/gpu_first.py: that it measures, on a bare checkout and on a pretended card. How fast, no test asks."""

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
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
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
ZEROS = ("kernels.words", "kernels.reduced", "speed.growth", "run.differ")


@pytest.fixture(scope="module")
def program() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE / "benchmarks"))
        yield importlib.import_module("gpu_first")


def figures(file: Path) -> dict[str, float]:
    results = json.loads(file.read_text())
    assert results["failed"] == {}
    values: dict[str, float] = results["figures"]
    return values


def test_a_checkout_under_any_name_needs_torch_and_numpy_alone(tmp_path: Path) -> None:
    """In place of CuPy it has NumPy here; threadpoolctl is what engines on the CPU need."""
    checkout, held = tmp_path / "a lab's copy", set(HELD_BACK) - {"threadpoolctl"}
    skipped = shutil.ignore_patterns(".*", "tests", "docs", "__pycache__", "*.csv", "*.parquet")
    shutil.copytree(PACKAGE, checkout, ignore=skipped)
    (tmp_path / "sitecustomize.py").write_text(ALONE.format(blocked=held))
    figures_file = tmp_path / "figures.json"
    words = [sys.executable, checkout / "benchmarks/gpu_first.py", "--pretend", "--json", figures_file]
    result = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 0, result.stdout + result.stderr
    values = figures(figures_file)
    assert {name: values[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert {name.partition(".")[0] for name in values} == {"kernels", "speed", "share", "run"}
    assert "left out: no NVIDIA GPU here" in result.stdout
    assert not list(tmp_path.glob("bandlens-benchmark-*"))


@pytest.fixture
def card(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> PretendCupy:
    library = compile_kernels(tmp_path_factory.mktemp("kernels"))
    xp = pretend_gpu(monkeypatch, kernel_launcher(library))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(program, "readiness", lambda engine: Readiness(engine != "onnxruntime-cuda", "pretended"))
    monkeypatch.setattr(program, "gpus", lambda: (Gpu("Pretended", 1 << 34, "9.0", "580"),))
    monkeypatch.setattr(program, "array_module", lambda _: xp)
    return xp


def test_on_a_card_every_figure_of_the_table_is_measured(
    program: ModuleType, card: PretendCupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def exported(bench: Any) -> list[Any]:
        return [make_model(bench.folder, f"m{k}", classes=1000, seed=k) for k in range(2)]

    (tmp_path / "trtexec").write_text("#!/bin/sh\necho '[I] Throughput: 10.5 qps'\n")
    (tmp_path / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(program, "exported", exported)
    bench = program.Bench(False, program.PRETENDED, time.monotonic() + 1e6, tmp_path)
    assert program.measure(bench, list(program.STAGES), tmp_path / "figures.json")
    values = figures(tmp_path / "figures.json")
    assert {name: values[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert values["kernels.normals"] <= 2e-6
    assert 0 < values["kernels.band"] <= 2e-5, "kernels are not NumPy's code"
    assert values["tensorrt.refit"] == 1
    assert values["tensorrt.fp32.4.trtexec"] == pytest.approx(values["tensorrt.fp32.4"] / (4 * 10.5))
    expected_names = {name.replace("fp16.256", "fp32.4") for name in program.FIGURES if "int8" not in name}
    assert expected_names <= set(values)


def test_small_work_is_timed_without_python(program: ModuleType, card: PretendCupy) -> None:
    """An addition takes a microsecond of the pretended card, and Python longer to ask for it."""
    small = card.zeros(32, dtype=np.float32)

    def work() -> None:
        time.sleep(1e-3)
        for _ in range(2):
            card.add(small, 1, out=small)

    assert program.device_seconds(card, work, 5) == pytest.approx(2e-6)
    assert program.device_seconds(np, lambda: time.sleep(1e-3), 5) >= 1e-3


def test_rows_that_no_rounding_explains_are_counted(program: ModuleType) -> None:
    logits = np.array([[3, 2, 1], [3, 3 - 1e-5, 1], [3, 3 - 1e-5, 1], [3, 2, 1]], np.float32)
    possible = program.possible(logits, np.array([1, 1, 1, 2]), np.array([0, 1, 1, 1]), np.array([1, 0, 2, 2]))
    assert possible.tolist() == [True, True, False, False]


def test_a_stage_that_fails_leaves_the_others_alone(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(_: Any) -> Iterator[tuple[str, float]]:
        yield "first", 1.0
        raise RuntimeError("CUDA error: unspecified launch failure\nFor debugging")

    monkeypatch.setattr(program, "STAGES", {"speed": lost, "kernels": lambda _: iter([("words", 0)])})
    bench, file = program.Bench(True, program.PRETENDED, 0.0, tmp_path), tmp_path / "figures.json"
    assert not program.measure(bench, ["speed", "kernels"], file)
    assert "  failed: CUDA error: unspecified launch failure\n" in capsys.readouterr().out
    results = json.loads(file.read_text())
    assert results["figures"] == {"speed.first": 1.0, "kernels.words": 0}
    assert list(results["failed"]) == ["speed"]
    monkeypatch.setattr(program, "STAGES", {"speed": lambda _: iter([("first", 2.0)])})
    assert program.measure(bench, ["speed"], file)
    assert figures(file) == {"speed.first": 2.0, "kernels.words": 0}, "stages that were chosen earlier are kept"
    resized_bench = replace(bench, sizes=replace(bench.sizes, batch=8))
    assert program.measure(resized_bench, ["speed"], file)
    assert figures(file) == {"speed.first": 2.0}, "but not those of another machine, or of other sizes"


def test_what_would_end_too_late_is_left_out(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = program.Bench(True, program.PRETENDED, time.monotonic() + 5, tmp_path)
    assert list(program.over_bare(replace(bench, sizes=program.Sizes()), {})) == []
    assert capsys.readouterr().out.count("left out: it would take about") == 2


def test_the_page_has_the_table_that_it_fills(program: ModuleType) -> None:
    """The table says so while no GPU has been met; `--table` prints what goes there afterwards."""
    assert program.made_table({}) in (PACKAGE / "docs/guide/gpu.md").read_text(encoding="utf-8")
