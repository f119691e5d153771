"""benchmarks/gpu_first: that it measures, on a bare checkout and on a pretended card. How fast, no test asks."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from imports_of_folders import PACKAGE

HELD_BACK = (
    *("altair", "duckdb", "onnx", "onnxruntime", "onnxscript", "openvino", "PIL", "polars", "pyarrow", "ray", "scipy"),
    *("skimage", "tensorrt", "threadpoolctl", "timm", "torchvision", "tqdm", "typer"),
)
ZEROS = ("kernels.words", "kernels.reduced", "torch.differ")
PARTS = ("bench", "checks", "engines", "networks", "page", "stages")


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
    assert {name: stage["line"] for name, stage in stages.items() if stage["state"] != "done"} == {}
    return {f"{name}.{figure}": value for name, stage in stages.items() for figure, value in stage["figures"].items()}


def run_program(path: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, path / "benchmarks/gpu_first", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_a_checkout_under_any_name_asks_for_its_card_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    checkout = tmp_path / "a lab's copy"
    skipped = shutil.ignore_patterns(".*", "tests", "docs", "__pycache__", "*.csv", "*.parquet")
    shutil.copytree(PACKAGE, checkout, ignore=skipped)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({HELD_BACK}))\n")
    result = run_program(checkout, "--out", tmp_path / "results", PYTHONPATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert result.stderr.startswith('CUDA_VISIBLE_DEVICES="" hides every NVIDIA GPU, and this engine needs one')


def test_all_of_it_runs_on_a_pretended_card(program: SimpleNamespace, tmp_path: Path) -> None:
    """`settings` is the stage without a limit: it runs where it is named."""
    (tmp_path / "trtexec").write_text("#!/bin/sh\necho '[I] Throughput: 10.5 qps'\n")
    (tmp_path / "trtexec").chmod(0o755)
    folder, path = tmp_path / "results", f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for words in ((), ("--stage", "settings")):
        result = run_program(PACKAGE, "--pretend", "--out", folder, *words, PATH=path)
        assert result.returncode == 0, result.stdout + result.stderr
    values = figures(folder)
    assert {name: values[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0)
    assert values["kernels.normals"] <= 2e-6
    assert 0 < values["kernels.band"] <= 2e-5, "kernels are not NumPy's code"
    assert values["fault.line"] == values["memory.line"] == 1
    assert values["rates.fp16.4.trtexec"] == pytest.approx(values["rates.fp16.4"] / (4 * 10.5))
    names = {name.replace(".256", ".4") for name in program.page.FIGURES if "int8" not in name and "1024" not in name}
    assert names <= values.keys()
    page = json.loads((folder / "page.json").read_text())
    measured = {row["figure"]: (row["predicted"], row["measured"]) for row in page["rows"]}
    assert measured["rates.fp16.grid"] == ("61 to 70", values["rates.fp16.grid"])
    assert page["machine"]["images"] == "photographs"
    assert "<td>the grid in int8</td><td>32 to 37</td><td></td>" in (folder / "page.html").read_text()


def test_a_stage_that_fails_is_on_the_page_and_leaves_the_others_alone(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lost(_: Any) -> Iterator[tuple[str, float]]:
        yield "first", 1.0
        program.bench.patches(1, None)  # fails in bench.py

    stages, stage = program.stages, program.stages.Stage
    two_stages = {"doctor": stage(lost, 1), "kernels": stage(lambda _: iter([("words", 0)]), 1)}
    monkeypatch.setattr(stages, "STAGES", two_stages)
    bench = program.bench.Bench(True, program.bench.PRETENDED, 0.0, tmp_path, np)
    assert not stages.run_stage(bench, "doctor")
    assert stages.run_stage(bench, "kernels")
    failed = stages_of(tmp_path)["doctor"]
    assert (failed["state"], failed["figures"]) == ("failed", {"first": 1.0})
    assert failed["line"] == "'NoneType' object cannot be interpreted as an integer"
    assert failed["place"].startswith("benchmarks/gpu_first/bench.py:")
    program.page.write_page(tmp_path, stages.read_results(bench))
    page = (tmp_path / "page.html").read_text()
    assert all(escape(failed[key]) in page for key in ("line", "place", "command"))
    monkeypatch.setattr(stages, "STAGES", {"doctor": stage(lambda _: iter([("first", 2.0)]), 1)})
    assert stages.run_stage(bench, "doctor")
    assert figures(tmp_path) == {"doctor.first": 2.0, "kernels.words": 0}, "stages that ran earlier are kept"
    resized_bench = replace(bench, sizes=replace(bench.sizes, batch=8))
    assert stages.run_stage(resized_bench, "doctor")
    assert figures(tmp_path) == {"doctor.first": 2.0}, "but not those of another machine, or of other sizes"


@pytest.mark.parametrize(
    ("code", "limit", "line"),
    [("import time; time.sleep(60)", 1.0, "it had not ended after 1 s"), ("raise SystemExit(7)", 60.0, "code 7")],
)
def test_a_stage_that_hangs_or_crashes_has_failed(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, limit: float, line: str
) -> None:
    monkeypatch.setattr(program.stages, "command_of", lambda *_: [sys.executable, "-S", "-c", code])
    bench = program.bench.Bench(True, program.bench.PRETENDED, 0.0, tmp_path, np)
    program.stages.run_process(bench, "kernels", limit)
    record = stages_of(tmp_path)["kernels"]
    assert record["state"] == "failed"
    assert line in record["line"]
    assert record["place"] == str(tmp_path / "kernels.log")
