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
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.schema_versions import DEFINITIONS, migrations, tables_of

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
    for view, columns in released_rows(version).items():
        assert rows[view].keys() == columns.keys(), view
        for column, values in columns.items():
            assert rows[view][column] == pytest.approx(values, abs=1e-9), f"{view}.{column}"
    with open_store(out) as store:
        assert store.frame("SELECT nextval('id') > max(id) AS free FROM cell").item()
