"""`bandlens doctor`: what it says of this machine, of one with a GPU, and of one whose GPU cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from gpu_traces import H100, build_tree
from small import Command

import bandlens
from bandlens.app.api.hardware import PACKAGES
from bandlens.engine.backends.base import ENGINES
from bandlens.engine.device import devices
from bandlens.engine.device.nvidia import find_gpus


def rows_of(output: str) -> dict[str, str]:
    return {row["what"]: row["found"] for row in json.loads(output)}


@pytest.fixture
def updated(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this process the machine has an H100 whose driver was updated without a restart."""
    monkeypatch.setenv("FAKE_INIT", "803")
    root = build_tree(tmp_path / "root", "module", "gpu", "node", "card")
    monkeypatch.setattr(devices, "find_gpus", partial(find_gpus, root, str(driver), {}))
    forget()
    yield
    forget()


def forget() -> None:
    devices.gpus.cache_clear()
    devices.readiness.cache_clear()


def test_a_gpu_is_described(driver: Path) -> None:
    command = [sys.executable, "-P", "-m", "bandlens", "doctor", "--format", "json"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver.parent)}
    rows = rows_of(subprocess.check_output(command, env=environment, text=True))
    assert {f"engine {name}" for name in (*ENGINES, "auto")} | {"memory", "array module cupy"} <= rows.keys()
    assert {f"package {name}" for name in PACKAGES} <= rows.keys()
    assert rows["bandlens"] == bandlens.__version__
    assert rows["package numpy"][0].isdigit()
    assert rows["GPU 0"].startswith(f"{H100}, 80 GiB, compute capability 9.0, driver ")
    assert rows["engine onnxruntime"].startswith("ready")
    assert rows["engine tensorrt"].startswith("not ready"), "this driver runs nothing"
    assert rows["engine auto"].startswith(f"not ready: no engine for {H100} is ready: tensorrt")


PROGRAM = """
import sys
from bandlens.engine.device.devices import gpus
[card] = gpus()
print(sys.unraisablehook.__name__)
"""


def test_destructors_of_a_card_are_silent_in_any_process_that_opens_it(driver: Path) -> None:
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver.parent)}
    command = [sys.executable, "-P", "-c", PROGRAM]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("show\n", "")


def test_a_gpu_that_cannot_be_used_is_seen_at_once(updated: None, command: Command) -> None:
    answer = command("doctor", "--format", "json")
    rows = rows_of(answer.out)
    assert answer.code == 0, "a report, not a verdict"
    assert rows["GPU"].startswith(
        f"PROBLEM: {H100} cannot be used: cuInit gives CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"
    )
    assert rows["engine tensorrt"] == "not ready: the GPU cannot be used, see above"
    assert rows["engine auto"].startswith("not ready: the GPU cannot be used, see above; or ask for the CPU")
    assert rows["array module cupy"] == "not ready: the GPU cannot be used, see above"
    assert rows["engine onnxruntime"].startswith("ready")
    assert sum("CUDA_ERROR" in str(state) for state in rows.values()) == 1
    for engine in ("tensorrt", "auto"):
        answer = command("doctor", "--engine", engine)
        assert (answer.code, answer.out, answer.err.count("\n")) == (1, "", 1)
        assert answer.err.startswith(
            f"bandlens: engine {engine} is not ready: {H100} cannot be used: cuInit gives CUDA"
        )
