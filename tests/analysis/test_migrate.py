"""Databases of earlier versions: every row comes along, and a study has nothing to run again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from small import Command, ask, make_images, make_model, make_pictures, make_study, rows_of

from bandlens.analysis.migrate import migrate
from bandlens.analysis.store import SCHEMA_VERSION, open_store
from bandlens.app.runner import run_study
from bandlens.app.study import read_study, resolve
from bandlens.errors import StoreError, UsageError

SCHEMA_1 = Path(__file__).parents[1] / "golden" / "schema_1.sql"
"""The schema of version 1, as it was."""
VIEWS = "accuracy", "curve", "flip", "metric"


def tables(connection: duckdb.DuckDBPyConnection, database: str) -> dict[str, set[str]]:
    """Table -> columns."""
    rows = connection.sql(
        "SELECT table_name, list(column_name) FROM duckdb_columns() "
        f"JOIN duckdb_tables() USING (database_name, table_name) WHERE database_name = '{database}' GROUP BY ALL"
    ).fetchall()
    return {name: set(columns) for name, columns in rows}


def write_version_1(out: Path, current: Path) -> None:
    """The rows of a database as version 1 had them."""
    with duckdb.connect(str(out), config={"default_block_size": "65536"}) as connection:
        connection.execute(SCHEMA_1.read_text())
        connection.execute("INSERT INTO meta (schema_version, bandlens) VALUES (1, '0.1.0.dev1')")
        connection.execute(f"ATTACH '{current}' AS current (READ_ONLY)")
        theirs = tables(connection, "current")
        for table, columns in tables(connection, out.stem).items():
            if table != "meta":
                names = ", ".join(columns & theirs[table])
                connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM current.{table}")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrate")
    for seed, name in enumerate(("one", "two")):
        make_model(folder / "models", name, seed=seed)
    make_images(folder / "images.set", make_pictures(20), labels=[k % 12 for k in range(20)])
    return make_study(folder, probes="lowpass = {cutoff = [0.1, 0.3]}")


@pytest.fixture(scope="module")
def current(study: Path) -> Path:
    database = study.parent / "current.duckdb"
    run_study(resolve(read_study(study)), database)
    with open_store(database) as store:
        rows = store.frame(
            "SELECT study, checkpoint_id, image_set_id, 'a number' AS metric, 0.5 AS value, 0.25 AS low, 0.75 AS high, "
            "NULL::VARCHAR AS note, study.id AS study_id FROM cell_detail JOIN study_cell USING (cell) "
            "JOIN study ON study.id = study_cell.study WHERE family = 'clean'"
        )
        store.write_metrics(rows)
    return database


@pytest.fixture
def old(tmp_path: Path, current: Path) -> Path:
    database = tmp_path / "old's.duckdb"
    write_version_1(tmp_path / "old.duckdb", current)
    return (tmp_path / "old.duckdb").rename(database)


def shown(database: Path, names: Iterable[str]) -> dict[str, pl.DataFrame]:
    with open_store(database, read_only=True) as store:
        return {name: store.frame(f"FROM {name} ORDER BY ALL") for name in names}


def test_an_old_database_is_refused_with_the_command_that_helps(old: Path) -> None:
    with pytest.raises(StoreError, match=r"has schema version 1 .*; bring it here with `bandlens migrate "):
        ask(old, "SELECT 1")


def test_everything_comes_along_and_nothing_runs_again(old: Path, current: Path, study: Path) -> None:
    before = old.read_bytes()
    kept = migrate(old)
    assert kept is not None
    assert kept.read_bytes() == before
    assert_frame_equal(rows_of(old), rows_of(current))
    found, wanted = shown(old, VIEWS), shown(current, VIEWS)
    for name in VIEWS:
        assert_frame_equal(found[name], wanted[name])
        assert len(found[name])
    assert run_study(resolve(read_study(study)), old).ran == 0
    assert ask(old, "SELECT schema_version FROM meta") == [(SCHEMA_VERSION,)]
    more = make_study(study.parent, name="study", probes="lowpass = {cutoff = [0.1, 0.3, 0.5]}")
    assert run_study(resolve(read_study(more)), old).ran == 2, "new rows do not get the numbers of old ones"
    assert migrate(old) is None


def test_what_cannot_be_migrated_stays_as_it_is(old: Path, tmp_path: Path) -> None:
    (tmp_path / f"{old.name}.v1").write_bytes(b"something of the user's")
    before = old.read_bytes()
    with pytest.raises(StoreError, match="is in the way"):
        migrate(old)
    with duckdb.connect(str(old)) as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
    with pytest.raises(StoreError, match=r"has schema version 99 .*; use that release"):
        migrate(old)
    assert old.stat().st_size >= len(before)
    with pytest.raises(UsageError, match="no results database"):
        migrate(tmp_path / "none.duckdb")


def test_the_command(old: Path, command: Command) -> None:
    assert command("migrate", old).out == f"{old} is up to date now; the old file is {old}.v1\n"
    assert command("migrate", old).out == f"{old} is up to date\n"
    assert command("sql", "SELECT count(*) AS n FROM accuracy", "--db", old, "--format", "csv").out == "n\n6\n"
