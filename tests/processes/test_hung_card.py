"""A card that hangs, or a library that does not answer, ends the process with a line; a lost card is no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from small import PROBES, ask, make_images, make_model, make_pictures, make_study, rows_of
from waiting import LIMIT_SECONDS

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.workers import Workers
from bandlens.engine import processes, schedule

HANG = """
import sys, threading
from pathlib import Path
import numpy as np
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.engine import run
from bandlens.engine.backends.onnxruntime import OnnxRuntimeSession

infer, calls = OnnxRuntimeSession.infer, []

def hangs(session, images, rows):
    calls.append(1)
    if len(calls) == 5:
        threading.Event().wait()  # as a driver that does not come back
    return infer(session, images, rows)

OnnxRuntimeSession.infer = hangs
run.HANG_SECONDS, run.runs_on_gpu = 1.0, lambda cell: True
run_study(resolve(Study.read(sys.argv[1])), Path(sys.argv[2]), range_seconds=0)
"""
PATIENT = """
import time
from bandlens.core.timeouts import Watchdog

watchdog = Watchdog(0.5, "it hangs")

def steps():
    for number in range(3):
        for _ in range(4):
            time.sleep(0.2)
            watchdog.sign()  # slow, and alive
        yield number

for number in watchdog.watch(steps()):
    time.sleep(1)  # the caller may take its time
print(number)
"""


def python(source: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", source, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def test_a_card_that_hangs_ends_the_run_in_a_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    make_model(tmp_path / "models")
    make_images(tmp_path / "images.set", make_pictures(8))
    study, database = make_study(tmp_path, probes=PROBES), tmp_path / "results.duckdb"
    result = python(HANG, study, database)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "bandlens: the GPU has not ended any work for 1 s; what was committed stays, and the next run goes on there, "
        "once `nvidia-smi` shows it well"
    )
    [(committed,)] = ask(database, "SELECT count(*) FROM prediction", ())
    assert committed > 0
    work = resolve(Study.read(study))
    summary = run_study(work, database)
    assert summary.predictions == 8 * len(work.cells) - committed


HUNG = "bandlens: the GPU has not ended any work for 1 s; what was committed stays"


@pytest.mark.parametrize(
    ("hang_seconds", "seconds", "line"), [("1", 3600.0, HUNG), ("1800", 15.0, "")], ids=["watchdog", "schedule"]
)
def test_one_of_two_cards_that_hangs_is_given_up_and_its_task_done_by_a_process_that_lives(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    hang_seconds: str,
    seconds: float,
    line: str,
) -> None:
    """Either a process finds out by itself, where its thread waits in the driver, or the one that started it does."""
    make_model(tmp_path / "models")
    make_images(tmp_path / "images.set", make_pictures(32))
    work = resolve(Study.read(make_study(tmp_path, probes=PROBES, batch=4)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("HUNG", str(tmp_path / "hung"))
    monkeypatch.setenv("HANG_SECONDS", hang_seconds)
    monkeypatch.setattr(processes, "PROGRAM", "hanging_process")
    monkeypatch.setattr(schedule, "HANG_SECONDS", seconds)
    summary = run_study(work, tmp_path / "devices.duckdb", workers=Workers(("cpu", "cpu")))
    assert summary.failed == []
    assert (tmp_path / "hung").exists()
    assert line in capfd.readouterr().err
    run_study(work, tmp_path / "direct.duckdb")
    assert_frame_equal(rows_of(tmp_path / "devices.duckdb"), rows_of(tmp_path / "direct.duckdb"))


def test_a_slow_step_that_shows_signs_is_left_alone() -> None:
    result = python(PATIENT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")


UNRAISABLE = """
import sys
from bandlens.engine.device.gpu_errors import hide_lost_memory

class Lost(RuntimeError):
    __module__ = "cupy_backends.cuda.api.runtime"

class Event:
    def __init__(self, error):
        self.error = error
    def __del__(self):
        raise self.error

hide_lost_memory()
Event(Lost("cudaErrorIllegalAddress"))
Event(ValueError("something else"))
"""


def test_what_cannot_be_freed_on_a_lost_card_is_no_traceback_each() -> None:
    result = python(UNRAISABLE)
    assert result.returncode == 0
    assert "cudaErrorIllegalAddress" not in result.stderr
    assert result.stderr.endswith("ValueError: something else\n")


STUCK = """
import sys, threading
from bandlens import __main__
from bandlens.app.cli import main as cli
from bandlens.core.timeouts import TimedCalls
def app():
    try:
        TimedCalls(0.05, "no answer")(threading.Event().wait)
    finally:
        import atexit
        atexit.register(print, "unloaded")
cli.app = app
__main__.main()
"""


def test_a_command_with_a_library_that_is_stuck_ends_with_its_line_and_unloads_nothing() -> None:
    result = python(STUCK)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "bandlens: no answer\n")
