"""Every column has one meaning, and columns.toml says nothing of columns that there are none."""

from __future__ import annotations

from pathlib import Path

from bandlens.analysis.database.columns import COLUMNS, EVERY, read_meanings
from bandlens.analysis.database.open import open_store


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


def test_a_meaning_that_every_table_shares_is_not_said_again() -> None:
    meanings = read_meanings()
    assert [
        key for key, meaning in meanings.items() if key[0] != EVERY and meanings.get((EVERY, key[1])) == meaning
    ] == []
