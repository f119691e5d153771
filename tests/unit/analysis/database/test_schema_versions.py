"""Databases of earlier schema versions are migrated by a merge, and give the rows that they gave before."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import duckdb
import pytest
from released import FOLDER, rows_of_views

from bandlens.analysis.database.catalogue import SCHEMA_VERSION
from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.schema_versions import DEFINITIONS, migrations, tables_of
from bandlens.core.errors import StoreError

VERSIONS = sorted(int(file.stem) for file in FOLDER.glob("*.json"))


def released_database(version: int, folder: Path) -> Path:
    path = folder / f"{version}.duckdb"
    path.write_bytes(lzma.decompress((FOLDER / f"{version}.duckdb.xz").read_bytes()))
    return path


def released_rows(version: int) -> dict[str, dict[str, list[Any]]]:
    rows = json.loads((FOLDER / f"{version}.json").read_text())
    assert isinstance(rows, dict)
    return rows


def definitions(statements: str) -> set[tuple[str, str, str]]:
    with duckdb.connect() as connection:
        connection.execute(statements)
        return set(connection.execute(DEFINITIONS, ["memory"]).fetchall())


def test_migrations_together_make_the_tables_of_the_schema() -> None:
    assert definitions("".join(migrations().values())) == definitions(tables_of(SCHEMA_VERSION))
    assert [*migrations()] == [*range(min(VERSIONS), SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("version", VERSIONS)
def test_merge_of_a_released_version_gives_the_rows_that_its_views_gave(version: int, tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    merged = merge([released_database(version, tmp_path)], out)
    assert (merged.studies, merged.cells, merged.predictions) == (["broken off@1", "first@1"], 19, 458)
    with open_store(out, read_only=True) as store:
        rows = rows_of_views(store)
        assert [check.problems for check in check_database(store) if check.problems] == []
    for view, columns in released_rows(version).items():
        assert rows[view].keys() == columns.keys(), view
        for column, values in columns.items():
            assert rows[view][column] == pytest.approx(values, abs=1e-9), f"{view}.{column}"
    with open_store(out) as store:
        assert store.frame("SELECT nextval('id') > max(id) AS free FROM cell").item()


EARLIER = [version for version in VERSIONS if version < SCHEMA_VERSION]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("version", EARLIER)
def test_open_store_of_an_earlier_version_names_the_command_that_migrates_it(
    version: int, read_only: bool, tmp_path: Path
) -> None:
    path = released_database(version, tmp_path)
    content = path.read_bytes()
    expected = f"schema version {version} .*; migrate it with: bandlens merge {path} --out NEW.duckdb$"
    with pytest.raises(StoreError, match=expected), open_store(path, read_only):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", EARLIER)
def test_merge_of_several_databases_asks_to_migrate_an_earlier_one_first(version: int, tmp_path: Path) -> None:
    path, present = released_database(version, tmp_path), tmp_path / "present.duckdb"
    with open_store(present):
        pass
    with pytest.raises(StoreError, match=f"migrate it with: bandlens merge {path}"):
        merge([present, path], tmp_path / "out.duckdb")
    assert not (tmp_path / "out.duckdb").exists()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("CREATE INDEX i ON cell ((id + 1))", "index i"),
        ("CREATE TABLE extra AS SELECT 1 AS x", "table extra"),
        ("ALTER TABLE cell ADD COLUMN ci_low DOUBLE", "table cell"),
        ("DROP TABLE part; CREATE VIEW part AS SELECT 1 AS cell", "table part"),
    ],
)
@pytest.mark.parametrize("version", EARLIER)
def test_merge_refuses_an_earlier_version_with_other_tables_than_it_had(
    version: int, sql: str, words: str, tmp_path: Path
) -> None:
    path = released_database(version, tmp_path)
    with duckdb.connect(path) as connection:
        connection.execute(sql)
    with pytest.raises(StoreError, match=f"is not as bandlens made it: .*{words}"):
        merge([path], tmp_path / "out.duckdb")
    assert not (tmp_path / "out.duckdb").exists()


def test_migration_of_a_damaged_database_writes_nothing(tmp_path: Path) -> None:
    path = released_database(14, tmp_path)
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE part SET right1 = right1 + 1")
    with pytest.raises(StoreError, match=r"has sums of right answers .*; nothing was written"):
        merge([path], tmp_path / "out.duckdb")
    assert [*tmp_path.iterdir()] == [path]
