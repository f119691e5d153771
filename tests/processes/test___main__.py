"""The command as a shell starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small import ask, make_study
from waiting import LIMIT_SECONDS


@pytest.mark.parametrize("redirections", [">&-", "<&- >&- 2>&-"])
def test_a_run_whose_streams_are_closed_from_the_start_is_stored(redirections: str, workplace: Path) -> None:
    study, database = make_study(workplace), workplace / "results.duckdb"
    command = [sys.executable, "-P", "-m", "bandlens", "run", study, "--db", database]
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *command], capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert ask(database, "SELECT probe, n FROM accuracy") == [("clean", 20)]


def test_an_error_that_nobody_can_read_has_its_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "bandlens", "sql", "FROM accuracy", "--db", tmp_path / "none.duckdb"]
    result = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], capture_output=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout) == (2, b"")
