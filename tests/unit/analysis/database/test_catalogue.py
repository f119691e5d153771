"""Connections make the views and macros of the schema for themselves; tests/hostile/ has what a file may define."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from made_up_results import cell, database_of, image_set, part

from bandlens.analysis.database.catalogue import (
    COLUMNS,
    EVERY,
    read_meanings,
    schema,
    schema_tables,
    tables,
    temporary_definitions,
    words_of,
)
from bandlens.analysis.database.open import open_store
from bandlens.core.errors import StoreError
from bandlens.core.records import PREDICTION_COLUMNS


def test_the_schema_is_read_whole() -> None:
    with duckdb.connect() as connection:
        connection.execute(schema())
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        macros = connection.execute("SELECT function_name FROM duckdb_functions() WHERE NOT internal").fetchall()
        names = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    assert {name for (name,) in names} == set(schema_tables())
    assert {name for (name,) in views + macros} == temporary_definitions().keys()


def test_tables_have_the_columns_and_keys_that_duckdb_makes_of_the_schema() -> None:
    with duckdb.connect() as connection:
        connection.execute(schema())
        columns = connection.execute(
            "SELECT table_name, list(column_name ORDER BY column_index), "
            "list(column_name ORDER BY column_index) FILTER (data_type = 'INTEGER'), "
            "list(column_name ORDER BY column_index) FILTER (data_type = 'JSON') "
            "FROM duckdb_columns() SEMI JOIN duckdb_tables() USING (table_name) GROUP BY table_name"
        ).fetchall()
        keys = connection.execute(
            "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
            "WHERE constraint_type IN ('UNIQUE', 'PRIMARY KEY')"
        ).fetchall()
    assert len(columns) == len(tables())
    for name, every, integers, documents in columns:
        table = tables()[name]
        assert [*table.columns] == every
        assert [column for column, kind in table.columns.items() if kind == "INTEGER"] == (integers or [])
        assert [column for column, kind in table.columns.items() if kind == "JSON"] == (documents or [])
        others = [key for owner, key in keys if owner == name and key != ["id"]]
        assert [*table.key] in others if others else not table.key, name


def test_predictions_have_the_columns_of_their_table() -> None:
    assert ["cell", "image_index", *PREDICTION_COLUMNS] == [*tables()["prediction"].columns]


def test_words_are_those_of_the_statement() -> None:
    sql = """SELECT "Top 1", é FROM Accuracy -- curve, it's
    WHERE a = 'flip' /* metric */ AND b = $$gate$$"""
    assert words_of(sql) >= {"select", "top", "accuracy", "where", "é"}
    assert not words_of(sql) & {"curve", "flip", "metric", "gate"}


@pytest.mark.parametrize("name", ["system", "temp", 'a, "b', "it's", "accuracy"])
def test_a_file_of_any_name_is_asked(name: str, tmp_path: Path) -> None:
    images = image_set(1, labels=[0])
    path = database_of(tmp_path, images, [part(cell(images), [0], [0])], file=f"{name}.duckdb")
    for read_only in (False, True):
        with open_store(path, read_only) as store:
            assert store.frame("SELECT top1 FROM accuracy").rows() == [(1.0,)]


def test_views_that_a_transaction_made_are_made_again_after_it_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with store.transaction():
            store.frame("FROM accuracy")
            raise StoreError("no more")

    with open_store(tmp_path / "r.duckdb") as store:
        with pytest.raises(StoreError, match="no more"):
            fail()
        assert store.frame("FROM accuracy").is_empty()


def test_every_meaning_explains_a_column_and_every_column_has_its_meaning(tmp_path: Path) -> None:
    meanings = read_meanings()
    with open_store(tmp_path / "empty.duckdb") as store:
        columns = store.frame(COLUMNS).rows()
        comments = store.frame(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
        ).rows()
    sections = {column: column if column in meanings else (EVERY, column[1]) for column in columns}
    assert {(table, column): comment for table, column, comment in comments} == {
        column: meanings[section] for column, section in sections.items()
    }
    assert set(meanings) == set(sections.values())
