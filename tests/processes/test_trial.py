"""The first opening of a database, in a process of its own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest
from hostile_databases import make_hostile
from made_up_results import python
from waiting import LIMIT_SECONDS, wait_until

from bandlens.analysis.database import trial
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.trial import try_opening
from bandlens.core.errors import StoreError


@pytest.fixture
def database(tmp_path: Path) -> Path:
    with open_store(tmp_path / "r.duckdb"):
        pass
    return tmp_path / "r.duckdb"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_sound_database_is_left_as_it_is(read_only: bool, database: Path) -> None:
    before = database.read_bytes()
    try_opening(database, read_only)
    assert database.read_bytes() == before
    assert list(database.parent.iterdir()) == [database]


def test_a_database_that_this_process_has_open_opens_again(database: Path) -> None:
    with open_store(database) as store, open_store(database) as again:
        store.execute("INSERT INTO published VALUES ('m', 'x', 1, 's')")
        assert again.frame("SELECT model FROM published").rows() == [("m",)]


def test_looking_at_a_database_keeps_its_lock(database: Path) -> None:
    """Whoever opens and closes a file gives up all locks of the process on it: so that is left to another process."""
    code = """
import sys
from pathlib import Path
from bandlens.analysis.database.trial import try_opening
try_opening(Path(sys.argv[1]), True)
"""
    with open_store(database), open_store(database):
        result = subprocess.run(
            python("import duckdb, sys; duckdb.connect(sys.argv[1])", database), capture_output=True
        )
        assert b"lock on file" in result.stderr
        subprocess.run(python(code, database), check=True)  # whoever opens it says that it is locked


def test_time_that_is_over(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"r.duckdb: opening it in a process of its own takes more than 0.01 s, and"):
        try_opening(database, True)
    assert time.monotonic() - started < 20


def test_it_ends_with_the_process_that_waits_for_it(database: Path) -> None:
    """Left behind by a command that was killed, it would keep the database locked."""
    path = make_hostile("a log that doubles a text", database, database.parent)
    code = """
import sys
from pathlib import Path
from bandlens.analysis.database.trial import try_opening
try_opening(Path(sys.argv[1]), True)
"""
    with subprocess.Popen(python(code, path), text=True) as parent:

        def opening() -> list[psutil.Process]:
            children = psutil.Process(parent.pid).children()
            return [child for child in children if str(path) in {file.path for file in child.open_files()}]

        wait_until(opening, parent)
        [trial_process] = opening()
        trial_process.suspend()  # it cannot end by itself
        parent.kill()
    trial_process.wait(LIMIT_SECONDS)  # TimeoutExpired where it is still there


def test_another_failure_is_not_said_to_be_one_of_memory(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.sys, "executable", "/bin/false")
    with pytest.raises(StoreError, match=r"r.duckdb: opening it in a process of its own fails \(exit code 1\), and"):
        try_opening(database, True)
