"""A card that hangs loses its task to another, a stuck library ends with a line, and a lost card is no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from small import PROBES, make_images, make_model, make_pictures, make_study, rows_of
from waiting import LIMIT_SECONDS

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.study_run import run_study
from bandlens.app.study.workers import Workers
from bandlens.engine import processes, schedule


def python(source: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", source, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def test_one_of_two_cards_that_hangs_is_given_up_and_its_task_done_by_a_process_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "models")
    make_images(tmp_path / "images.set", make_pictures(32))
    work = resolve(Study.read(make_study(tmp_path, probes=PROBES, batch=4)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("HUNG", str(tmp_path / "hung"))
    monkeypatch.setattr(processes, "PROGRAM", "hanging_process")
    monkeypatch.setattr(schedule, "HANG_SECONDS", 15.0)
    summary = run_study(work, tmp_path / "devices.duckdb", workers=Workers(("cpu", "cpu")))
    assert summary.failed == []
    assert (tmp_path / "hung").exists()
    run_study(work, tmp_path / "direct.duckdb")
    assert_frame_equal(rows_of(tmp_path / "devices.duckdb"), rows_of(tmp_path / "direct.duckdb"))


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
from bandlens.app import cli
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
