"""A run keeps two files beside its database: its progress, read from outside, and a crash, for the next run."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from small import Command, ask, make_study

from bandlens.analysis.database.open import open_store
from bandlens.app.study import run_monitor
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.run_monitor import ENDING, RunMonitor, RunProgress, read_crashes, read_progress
from bandlens.app.study.runner import run_study
from bandlens.core.custom.call import crash_notes
from bandlens.core.files import HOST
from bandlens.core.jobs import silent

DUMP = """{digest}
Fatal Python error: Segmentation fault

Thread 0x00007f7302b43740 (most recent call first):
  File "/elsewhere/other.py", line 9 in other

Current thread 0x00007f7302b436c0 (most recent call first):
  File "{library}", line 519 in string_at
  File "/home/me/crashes.py", line 4 in crashes
  File "{package}/core/user_functions.py", line 126 in __call__

Extension modules: numpy.core._multiarray_umath (total: 1)
"""
NOBODY = 2**22 + 1
"""A number that Linux gives to no process."""


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state is written."""
    monkeypatch.setattr(run_monitor, "WRITE_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_run_says_how_far_it_is_and_leaves_nothing(workplace: Path) -> None:
    states, database = list[RunProgress](), workplace / "results.duckdb"

    @contextmanager
    def watch(_activity: str, _total: float | None, _unit: str) -> Iterator[Any]:
        def advance(_amount: float = 1, /) -> None:
            states.extend(read_progress(database))

        yield advance

    study = make_study(workplace, probes="lowpass = {cutoff = [0.1, 0.3]}")
    run_study(resolve(Study.read(study)), database, progress=watch)
    running = [state for state in states if state.activity == "running"]
    assert {(state.process, state.total, state.unit, state.gone) for state in running} == {
        (os.getpid(), 60.0, "predictions", False)
    }
    counts = [state.done for state in running]
    assert counts == sorted(counts)
    assert counts[0] == 0 < counts[-1] < 60
    assert read_progress(database) == []
    assert [file.name for file in workplace.iterdir() if file.name.startswith(".")] == []


def test_a_state_is_written_once_a_second_at_most(tmp_path: Path) -> None:
    database = tmp_path / "results.duckdb"
    with RunMonitor(database, silent).progress("running", 100, "predictions") as advance:
        for _ in range(50):
            advance()
        [state] = read_progress(database)
        assert (state.activity, state.total) == ("running", 100)
        assert state.done < 50


def test_the_time_left_is_by_the_pace_so_far() -> None:
    seconds = run_monitor.time.time()
    state = RunProgress("running", 25, 100, "predictions", NOBODY, "host", seconds - 50, seconds)
    assert state.seconds_left == pytest.approx(150, abs=1)
    assert replace(state, started=seconds - 80, written=seconds - 30).seconds_left == pytest.approx(120, abs=1)
    assert replace(state, done=0).seconds_left is None
    assert replace(state, gone=True).seconds_left is None


def write_state(database: Path, process: int, **fields: Any) -> Path:
    seconds = run_monitor.time.time()
    state = RunProgress("running", 25.0, 100.0, "predictions", process, "host", seconds - 50, seconds)
    file = database.with_name(f".{database.name}.{HOST}.{process}.{ENDING}")
    file.write_text(json.dumps(asdict(state) | fields))
    return file


@pytest.fixture
def database(tmp_path: Path) -> Path:
    with open_store(tmp_path / "results.duckdb"):
        return tmp_path / "results.duckdb"


def test_the_command_says_it_in_a_line(command: Command, database: Path) -> None:
    assert command("progress", "--db", database).out == f"{database}: no run writes to it\n"
    assert command("progress", "--db", database.parent).err.endswith("is a folder; name the file of a database\n")
    write_state(database, os.getpid())
    answer = command("progress", "--db", database)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(
        f"{database}: running, 25 of 100 predictions (25%), process {os.getpid()} on host, as of "
    )
    assert " s ago; about 2 min left\n" in answer.out or answer.out.endswith("about 3 min left\n")
    [row] = json.loads(command("progress", "--db", database, "--format", "json").out)
    assert (row["done"], row["total"], row["gone"]) == (25, 100, False)
    assert row["seconds_left"] == pytest.approx(150, abs=5)


def test_a_run_that_was_killed_is_gone_until_the_database_is_written(command: Command, database: Path) -> None:
    file = write_state(database, NOBODY)
    answer = command("progress", "--db", database)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        f"bandlens: {database}: a run was killed while running, after 25 of 100 predictions (25%), process {NOBODY} on "
        "host; run the same command again, which goes on with what was committed\n"
    )
    ask(database, "SELECT 1")
    assert file.exists()
    with open_store(database):
        assert not file.exists()


def test_of_a_run_that_was_killed_it_says_what_is_stored(command: Command, sample: Path, tmp_path: Path) -> None:
    database = tmp_path / "results.duckdb"
    database.write_bytes(sample.read_bytes())
    [(stored,)] = ask(database, "SELECT count(*) FROM prediction")
    write_state(database, NOBODY, done=0.0)
    for _ in range(2):
        answer = command("progress", "--db", database)
        assert f"a run was killed while running, after {stored:,} of {stored:,} predictions (100%)" in answer.err


@pytest.mark.parametrize("text", ["", '{"activity": 3}', "[" * 4000, "\xff" * 9000])
def test_a_file_that_is_damaged_says_nothing(text: str, database: Path) -> None:
    write_state(database, os.getpid()).write_text(text, encoding="latin-1")
    assert read_progress(database) == []


def test_a_folder_that_may_not_be_written_ends_no_job(tmp_path: Path) -> None:
    counts = []

    @contextmanager
    def count(_activity: str, _total: float | None, _unit: str) -> Iterator[Any]:
        yield counts.append

    with RunMonitor(tmp_path / "absent" / "results.duckdb", count).progress("running", 3, "predictions") as advance:
        advance(2)
    assert counts[-1] == 2


def test_a_crash_is_read_once(tmp_path: Path) -> None:
    package = Path(__file__).parents[4]
    words = DUMP.format(digest="a" * 64, library=ctypes.__file__, package=package)
    file = tmp_path / f".r.duckdb.crash.{HOST}.{NOBODY}.txt"
    file.write_text(words)
    line = "it ended an earlier run: Segmentation fault in crashes.py, line 4; mend it, or run with --devices, "
    assert read_crashes(tmp_path / "s.duckdb") == read_crashes(tmp_path / "no" / "r.duckdb") == {}
    crashes = read_crashes(tmp_path / "r.duckdb")
    assert crashes.keys() == {"a" * 64}
    assert crashes["a" * 64].startswith(line)
    assert not file.exists()
    file.write_text(f"{'a' * 64}\n")  # a process that was killed leaves this
    assert read_crashes(tmp_path / "r.duckdb") == {}
    assert not file.exists()


def test_a_folder_by_the_name_of_a_crash_is_let_be(tmp_path: Path) -> None:
    folder = tmp_path / f".r.duckdb.crash.{HOST}.{NOBODY}.txt"
    folder.mkdir()
    assert read_crashes(tmp_path / "r.duckdb") == {}
    assert folder.exists()


def test_a_run_that_goes_on_is_let_be_and_leaves_nothing(tmp_path: Path) -> None:
    with RunMonitor(tmp_path / "r.duckdb", silent).noting_crashes():
        for digest in ("a" * 64, "b" * 64):
            crash_notes[-1](digest)
        [file] = tmp_path.iterdir()
        assert file.read_text() == "b" * 64 + "\n"
        assert read_crashes(tmp_path / "r.duckdb") == {}
        assert file.exists()
    assert (list(tmp_path.iterdir()), crash_notes) == ([], [])


def test_no_link_that_lies_there_by_the_name_of_a_file_of_a_run_is_followed(tmp_path: Path) -> None:
    database, private = tmp_path / "r.duckdb", tmp_path / "letter.txt"
    private.write_text("dear")
    for name in (f"{HOST}.{os.getpid()}.{ENDING}.new", f"crash.{HOST}.{os.getpid()}.txt", f"crash.{HOST}.{NOBODY}.txt"):
        (tmp_path / f".r.duckdb.{name}").symlink_to(private)
    assert read_crashes(database) == {}
    monitor = RunMonitor(database, silent)
    with monitor.progress("running", 3, "predictions"), monitor.noting_crashes():
        crash_notes[-1]("a" * 64)
        assert [state.total for state in read_progress(database)] == [3]
    assert private.read_text() == "dear"
