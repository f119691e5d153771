"""The stand-in for a disk, and a few of the faults that disks.py strikes by the thousand."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest
from disks import (
    Change,
    acknowledged_by,
    compile_disk,
    lose_power,
    preloaded,
    read_log,
    record_runs,
    write_files,
)
from faults import Bench, bench
from made_up_results import python
from waiting import LIMIT_SECONDS

WRITE = """
import os, sys
def sync(path):
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.close(number)
root = sys.argv[1]
with open(f"{root}/a", "wb") as file:
    file.write(b"1" * 5000)
sync(f"{root}/a")
os.rename(f"{root}/a", f"{root}/b")
with open(f"{root}/c", "wb") as file:
    file.write(b"2" * 5000)
"""


MERGE = """
import sys
from pathlib import Path
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
root = Path(sys.argv[1])
paths = [root / "a.duckdb", root / "b.duckdb"]
for path in paths:
    with open_store(path):
        pass
merge(paths, root / "out.duckdb")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(root: Path, library: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = preloaded(library, root, **variables)
    return subprocess.run(python(WRITE, root), env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def test_what_was_synced_survives_a_loss_of_power_and_all_else_may_be_lost(library: Path, root: Path) -> None:
    assert write(root, library, LOG=root.with_name("log")).returncode == 0
    changes = read_log(root.with_name("log"))
    assert lose_power(changes, Random(0), survival=1) == {"/b": b"1" * 5000, "/c": b"2" * 5000}
    assert lose_power(changes, Random(0), survival=0) == {"/a": b"1" * 5000}
    unsynced = [change for change in changes if change.kind != "S"]
    assert lose_power(unsynced, Random(0), survival=0) == {}
    ends = {tuple(sorted(lose_power(changes, Random(seed), survival=0.5))) for seed in range(50)}
    assert ends == {("/a",), ("/b",), ("/b", "/c")}, "names change in order"


def test_a_change_is_refused_or_the_process_is_killed_there(library: Path, root: Path) -> None:
    failed = write(root, library, AT=3, ERRNO=28)
    assert (failed.returncode, "No space left on device" in failed.stderr) == (1, True)
    assert [file.name for file in root.iterdir()] == ["a"]
    (root / "a").unlink()
    assert write(root, library, AT=1, ERRNO=0).returncode == -9
    assert (root / "a").read_bytes() == b""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("disks") / "bench")


@pytest.fixture(scope="module")
def recorded(base: Bench, library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    folder = tmp_path_factory.mktemp("runs")
    return record_runs(base, library, folder)


def test_a_database_whose_log_is_not_synced_would_lose_what_was_committed(
    base: Bench, recorded: list[Change], tmp_path: Path
) -> None:
    """The check has to see a loss: without the syncs of DuckDB's log there is one."""
    changes = [change for change in recorded if not (change.kind == "S" and change.path.endswith(".wal"))]
    first = next(k for k in range(len(changes)) if acknowledged_by(changes[:k]))
    write_files(tmp_path, lose_power(changes[:first], Random(0), survival=0))
    assert base.check(tmp_path / "results.duckdb") < acknowledged_by(changes[:first])


def test_a_merged_database_has_its_name_after_a_loss_of_power(library: Path, root: Path) -> None:
    log = root.with_name("log")
    subprocess.run(python(MERGE, root), env=preloaded(library, root, LOG=log), check=True, timeout=LIMIT_SECONDS)
    survivors = lose_power(read_log(log), Random(0), survival=0)
    assert survivors["/out.duckdb"] == (root / "out.duckdb").read_bytes()
