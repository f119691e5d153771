"""The benchmarks run and print their ratios. How fast anything is, no test asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[2] / "benchmarks"
QUICK = [
    "cli",
    "critical_band",
    "database_size",
    "explore",
    "families",
    "heads",
    "merge",
    "packing",
    "releases",
    "spectral",
    "store",
]
HEAVY = ["attack", "engines", "many_models", "memory", "run_rate", "whole_study"]
"""They export a ResNet-50 or make thousands of models: only their help is asked for."""


def run(name: str, flag: str, scratch: Path) -> str:
    folders = {"TMPDIR": str(scratch), "BANDLENS_HOME": str(scratch / "home"), "PYTHONPATH": str(scratch)}
    environment = os.environ | folders
    command = [sys.executable, str(PROGRAMS / f"{name}.py"), flag]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", QUICK)
def test_quick_run_prints_ratios_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    output = run(name, "--quick", tmp_path)
    assert re.search(r"^ratio: .+: [\d.e+]+.* of \d+ repetitions; goal ", output, re.MULTILINE)
    assert output.startswith("machine: ")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("bandlens-")] == []


@pytest.mark.parametrize("name", HEAVY)
def test_help_says_what_is_compared(name: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('help is to come at once, and torch takes seconds')")
    assert "--quick" in run(name, "--help", tmp_path)


def test_intervals_are_counted_and_hold(tmp_path: Path) -> None:
    output = run("coverage", "--quick", tmp_path)
    worst = dict(re.findall(r"^share, (.+): worst ([\d.]+); with the normal quantile", output, re.MULTILINE))
    assert worst.keys() == {"independent", "beta-binomial", "whole", "right"}
    # The least of 910 numbers of 200 draws lies three standard errors below what 2,000 draws give.
    assert min(map(float, worst.values())) > 0.88


def test_differences_are_found_as_often_as_they_should_be(tmp_path: Path) -> None:
    output = run("power", "--quick", tmp_path)
    match = re.search(r"^power: from ([\d.]+) to ([\d.]+)$", output, re.MULTILINE)
    assert match is not None
    # The ends of 27 numbers of 100 draws lie up to three standard errors of 0.04 from what 4,000 draws give.
    assert 0.66 < float(match[1]) < 0.8 < float(match[2]) < 0.94


def test_every_program_is_tested() -> None:
    programs = {path.stem for path in PROGRAMS.glob("*.py") if not path.stem.startswith("_")}
    assert programs == {*QUICK, *HEAVY, "coverage", "power"}
