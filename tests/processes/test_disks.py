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
