"""Runs that are killed, interrupted, or find no room: what was committed stays, and the next run completes it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import CELLS, COUNT, PLACES, PROBES, Bench, bench, start
from made_up_results import python
from small import ask, make_study
from waiting import LIMIT_SECONDS

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.workers import Workers

RUN = """
import sys
from pathlib import Path
from bandlens.app.study.runner import run_study
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.core.errors import BandlensError
study = Study.read(Path(sys.argv[1]))
try:
    run_study(resolve(study), Path(sys.argv[2]), range_seconds=float(sys.argv[3]))
except BandlensError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("steps") / "bench")


def count_rows(database: Path) -> int:
    return int(ask(database, "SELECT count(*) FROM prediction")[0][0]) if database.exists() else 0


# A full disk


def test_a_disk_that_is_full_is_said_in_one_line_and_the_next_run_completes(base: Bench, small_disk: Path) -> None:
    """The log of all commits takes more than the disk has beside the database."""
    cutoffs = [0.1, 0.3, *(0.31 + k / 100 for k in range(60))]
    probes = PROBES.replace("[0.1, 0.3]", str(cutoffs)).replace("SECONDS", "0.01")
    study = make_study(base.study.parent, name="many", batch=2, probes=probes)
    database = small_disk / "results.duckdb"
    result = subprocess.run(python(RUN, study, database, 0), capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"{database}: the disk is full (" in result.stderr.splitlines()[-1]
    assert "what was committed stays: make room and run again" in result.stderr
    row_count = count_rows(database)
    assert 0 < row_count < 2 * (2 + len(cutoffs)) * COUNT
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert count_rows(database) == row_count
    run_study(resolve(Study.read(study)), database)
    assert base.check(database) == CELLS * COUNT


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for a database and some commits."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=560k", "tmpfs", str(folder)], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# Runs that die at each step of a commit, alone or on workers


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("workers", [None, Workers(("cpu",))], ids=["alone", "on a worker"])
def test_a_run_that_is_killed_at_a_step_of_a_commit_is_completed_by_the_next(
    base: Bench, tmp_path: Path, place: str, workers: Workers | None
) -> None:
    database = tmp_path / "results.duckdb"
    process = start(base.study, database, workers, place, 3, None)
    process.join(LIMIT_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    base.check(database)
    base.finish(database, workers)
