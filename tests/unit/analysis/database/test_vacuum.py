"""A database written anew holds the same, takes less room, and is written by nobody else meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, condition, image_set, part, store_study

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.studies import delete_study, free_bytes
from bandlens.analysis.database.vacuum import vacuum

COUNT = 100_000
IMAGES = image_set(COUNT)
TABLES = "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Two studies of many predictions, one of them deleted."""
    path, random = tmp_path / "results.duckdb", np.random.default_rng(0)
    with open_store(path) as store:
        for name, cutoff in (("first", 0.1), ("second", 0.2)):
            guesses = random.integers(0, 1000, COUNT)
            store_study(store, name, IMAGES, [part(cell(IMAGES, condition("lowpass", cutoff=cutoff)), guesses)])
        delete_study(store, "first")
        assert free_bytes(store) > 0
    return path


def test_it_is_smaller_and_holds_the_same(database: Path) -> None:
    with open_store(database, read_only=True) as store:
        tables = store.frame(TABLES)["table_name"].to_list()
        before = {table: store.frame(f"FROM {table} ORDER BY ALL") for table in tables}
        free = free_bytes(store)
        (last,) = store.frame("SELECT last_value FROM duckdb_sequences()")["last_value"]
    size = database.stat().st_size
    assert vacuum(database) == (size, database.stat().st_size)
    assert database.stat().st_size < size - free / 2
    assert [path.name for path in database.parent.iterdir()] == [database.name]
    with open_store(database) as store:
        for table, rows in before.items():
            assert store.frame(f"FROM {table} ORDER BY ALL").equals(rows), table
        assert store.frame("SELECT nextval('id') AS next")["next"][0] == last + 1


def test_ids_go_on_from_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "results.duckdb"
    with open_store(path) as store:
        store.frame("SELECT setval('id', 4000000000000000000)")
    vacuum(path)
    with open_store(path) as store:
        assert store.frame("SELECT nextval('id') AS next")["next"][0] == 4_000_000_000_000_000_001


def test_a_link_to_a_database_of_one_user_stays_and_so_does_its_mode(database: Path) -> None:
    link = database.with_name("link.duckdb")
    link.symlink_to(database)
    database.chmod(0o600)
    before, after = vacuum(link)
    assert after < before
    assert link.is_symlink()
    assert (database.stat().st_mode & 0o777, database.stat().st_size) == (0o600, after)
