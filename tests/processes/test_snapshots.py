"""Snapshots: what readers see while a database is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_results import cell, condition, image_set, part, store_study
from small import ask, bandlens, make_study
from waiting import LIMIT_SECONDS, wait_until

from bandlens.analysis.database.open import COPYING_SHARE, check_snapshot, open_store, snapshots, write_snapshot
from bandlens.analysis.database.store import Store
from bandlens.core.errors import StoreError, UsageError

IMAGES = image_set(6, labels=[0, 1, 2, 3, 4, 5])


def add(store: Store, name: str) -> None:
    stored_cell = cell(IMAGES, condition(name))
    store_study(store, name, IMAGES, [part(stored_cell, [0] * 6, [0, 1, 2, 3, 4, 5])])


def cells(database: Path) -> int:
    return int(ask(database, "SELECT count(*) FROM accuracy")[0][0])


def test_readers_see_what_was_committed_and_the_writer_keeps_its_lock(tmp_path: Path) -> None:
    database, copy = tmp_path / "results.duckdb", tmp_path / "snapshot.duckdb"
    with open_store(database) as store:
        add(store, "lowpass")
        write_snapshot(store, copy)
        assert cells(copy) == 1
        add(store, "highpass")
        assert cells(copy) == 1, "a snapshot stays as it was taken"
        in_use = bandlens("sql", "SELECT 1", "--db", database)
        assert (in_use.returncode, "is in use by process" in in_use.stderr) == (1, True)
        with open_store(copy, read_only=True) as reader:
            write_snapshot(store, copy)
            assert len(reader.frame("FROM accuracy")) == 1, "who reads the old one goes on"
        assert cells(copy) == 2
    assert cells(database) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["results.duckdb", "snapshot.duckdb"]


def test_whoever_may_not_read_the_database_may_not_read_a_snapshot(tmp_path: Path) -> None:
    with open_store(tmp_path / "results.duckdb") as store:
        store.path.chmod(0o600)
        write_snapshot(store, tmp_path / "snapshot.duckdb")
    assert (tmp_path / "snapshot.duckdb").stat().st_mode & 0o777 == 0o600


def test_they_take_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    with open_store(tmp_path / "results.duckdb") as store:
        add(store, "lowpass")
        copy = tmp_path / "snapshot.duckdb"
        monkeypatch.setattr("bandlens.analysis.database.open.time.monotonic", lambda: clock)
        real = write_snapshot

        def slow(source: Store, path: Path) -> None:
            nonlocal clock
            real(source, path)
            clock += 3

        monkeypatch.setattr("bandlens.analysis.database.open.write_snapshot", slow)
        renew = snapshots(store, copy)
        copies = 0
        for _ in range(400):
            copies += renew()
            clock += 1
    assert copies > 1
    assert 3 * copies / (clock - 100) == pytest.approx(COPYING_SHARE, rel=0.2)


def test_what_is_no_place_for_one(tmp_path: Path) -> None:
    database = tmp_path / "results.duckdb"
    with open_store(database) as store:
        os.link(database, tmp_path / "link.duckdb")
        with pytest.raises(UsageError, match="cannot take the place of"):
            check_snapshot(tmp_path / "link.duckdb", database)
        (tmp_path / "taken.duckdb").mkdir()
        with pytest.raises(StoreError, match="cannot write the snapshot"):
            snapshots(store, tmp_path / "taken.duckdb")()
        add(store, "lowpass")
    assert cells(database) == 1


WAITS = """
import time
from pathlib import Path
def slow(images):
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.05)
    return images
"""


def test_a_run_is_looked_at_while_it_goes_on(workplace: Path) -> None:
    study, copy = make_study(workplace, probes="slow = {file = 'slow.py'}"), workplace / "copy.duckdb"
    (workplace / "slow.py").write_text(WAITS)
    code = (
        "import sys; from pathlib import Path; from bandlens.app.study.runner import run_study; "
        "from bandlens.app.study.file import Study; from bandlens.app.study.resolve import resolve; "
        "study, database, copy = map(Path, sys.argv[1:]); "
        "run_study(resolve(Study.read(study)), database, range_seconds=0, snapshot=copy)"
    )
    database = workplace / "results.duckdb"
    running = subprocess.Popen([sys.executable, "-P", "-c", code, study, database, copy], text=True)
    try:
        counts = [0]

        def count_rows() -> int:
            if copy.exists():
                counts.append(ask(copy, "SELECT count(*) FROM prediction")[0][0])
            return counts[-1]

        wait_until(count_rows, running)
        assert counts[-1] < 2 * 20, "the run has stored all of its predictions"
    finally:
        (workplace / "go").touch()
        assert running.wait(LIMIT_SECONDS) == 0
    assert ask(database, "SELECT count(*) FROM accuracy") == [(2,)]
