"""Processes compute the rows of many subjects that one process computes, and end with one line."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_outcomes import CLEAN, right_outcomes
from made_up_results import cell, condition, image_set, model, part, python, store_study
from waiting import LIMIT_SECONDS, wait_until

from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics import compute as module
from bandlens.analysis.metrics.compute import compute_measures, open_processes
from bandlens.core.errors import EngineError
from bandlens.core.protocol import FREQUENCIES, NOISE_SDS

COUNT = 120
BAND = [
    condition("critical_band", noise_sd=0.0),
    *(condition("critical_band", noise_sd=sd, frequency=f) for f in FREQUENCIES for sd in NOISE_SDS[1:]),
]


def hits_of(seed: int) -> dict[Any, Any]:
    """Which images a model has right under each condition: fewer under more noise around octave 3."""
    ease = np.random.default_rng(seed).uniform(size=COUNT)
    strengths = {
        setting: (setting.number("noise_sd") or 0.0) / (0.03 * 2.0 ** abs((setting.number("frequency") or 0.0) - 3))
        for setting in BAND
    }
    return {CLEAN: ease < 0.9} | {setting: ease < 0.85 / (1 + strength**2) for setting, strength in strengths.items()}


def test_a_study_has_the_same_values_by_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set(COUNT, labels=np.zeros(COUNT, int))
    parts = [
        part(cell(images, setting, by=model(f"net{seed}", classes=1000)), ~hits * 3, ~hits * 3)
        for seed in range(3)
        for setting, hits in hits_of(seed).items()
    ]
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "s", images, parts)
        frames = []
        for fewest in (1, 1000):
            monkeypatch.setattr(module, "FEWEST_SUBJECTS", fewest)
            amounts = list[float]()
            frames.append(compute_measures(store, "*", amounts.append))
            assert sum(amounts) == pytest.approx(3)
    assert frames[0].equals(frames[1])


def _compute_after_a_kill() -> None:
    with open_processes(100) as compute:
        compute(right_outcomes(hits_of(0))).result()
        future = compute(right_outcomes(hits_of(1)))
        for child in multiprocessing.active_children():
            child.kill()
        future.result()


def test_a_process_that_was_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processors", lambda: 2)
    with pytest.raises(EngineError, match="analyzing failed: a process of it was ended"):
        _compute_after_a_kill()


PROGRAM = """
from bandlens.analysis.metrics import compute
print("once")
compute.processors = lambda: 2
with compute.open_processes(100) as rows_of:
    print(type(rows_of(None).exception()).__name__)
"""


def test_a_program_is_not_run_again_by_its_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == ["once", "AttributeError"]


def test_processes_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    """As `bandlens analyze` in a folder of somebody else: the program lies elsewhere."""
    program, found = tmp_path / "program.py", tmp_path / "found"
    program.write_text(PROGRAM)
    found.mkdir()
    for name in ("multiprocessing", "struct"):
        (found / f"{name}.py").write_text(f"open('{name} ran', 'w').close()\n")
    result = subprocess.run(
        [sys.executable, program], cwd=found, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS
    )
    assert result.stdout.split() == ["once", "AttributeError"]
    assert sorted(path.name for path in found.iterdir()) == ["multiprocessing.py", "struct.py"]


DRAWING = """
import os, signal, time
from pathlib import Path
from bandlens.analysis.charts.grammar import begin_libraries
begin_libraries()
while not Path("process").exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
SLOW_LIBRARY = """
import os, time
with open("written", "w") as file:
    file.write(str(os.getpid()))
os.rename("written", "process")
time.sleep(1000)
"""


def test_the_process_that_draws_ends_with_the_one_that_asked_it(tmp_path: Path) -> None:
    (tmp_path / "vl_convert.py").write_text(SLOW_LIBRARY)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(python(DRAWING), cwd=tmp_path, env=environment, check=False, timeout=LIMIT_SECONDS)
    process = Path("/proc", (tmp_path / "process").read_text())
    wait_until(lambda: not process.exists())
