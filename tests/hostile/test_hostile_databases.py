"""Results databases from somebody else: what they define is not run, their numbers are those of their rows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from fuzzing import refusal
from hostile_databases import DAMAGED, NEW_ROWS, TRICKS, change, make_hostile
from made_up_results import cell, condition, database_of, image_set, part, store_study

from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.core.errors import StoreError

IMAGES = image_set(4, labels=[0] * 4)
QUERIES = [
    "FROM accuracy",
    "SELECT count(*), sum(n), max(abs(top1)), string_agg(image_set || probe, ',') FROM curve",
    "SELECT label, newest FROM study_version",
    "FROM prediction ORDER BY ALL",
    "SELECT list(checkpoint) FROM accuracy_of('s')",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return database_of(tmp_path_factory.mktemp("sound"), IMAGES, [part(cell(IMAGES), [0, 0, 0, 1], [0, 0, 0, 2])])


def answers(store: Store) -> list[list[tuple[object, ...]]]:
    return [store.frame(query, seconds=60).rows() for query in QUERIES]


@pytest.fixture(scope="module")
def truth(sound: Path) -> list[list[tuple[object, ...]]]:
    with open_store(sound, read_only=True) as store:
        return answers(store)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_reader_gets_the_truth_and_a_writer_loses_no_row_or_they_are_told_what_is_strange(
    trick: str, sound: Path, truth: list[list[tuple[object, ...]]], tmp_path: Path
) -> None:
    path = make_hostile(trick, sound, tmp_path)

    def read() -> None:
        with open_store(path, read_only=True) as store:
            assert answers(store) == truth or trick in NEW_ROWS

    def write() -> None:
        with open_store(path) as store:
            assert answers(store) == truth
            store_study(store, "t", IMAGES, [part(cell(IMAGES, condition("grey")), [0] * 4, [0] * 4)])
            assert store.frame("SELECT study, top1 FROM accuracy ORDER BY ALL").rows() == [("s", 0.75), ("t", 1.0)]
            assert len(store.frame("FROM prediction")) == 8

    message = refusal(read)
    assert not message or trick in {*DAMAGED, "a view meta", "a table meta whose column is computed"}, message
    message = refusal(write)
    strange = "(table|index|trigger|sequence) |not a results database"
    assert not message or trick in DAMAGED or re.search(strange, message), message


@pytest.fixture
def change_database(sound: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the database after somebody's SQL."""
    path = Path(shutil.copy(sound, tmp_path))

    def change_copy(sql: str) -> Path:
        change(path, sql)
        return path

    return change_copy


DEFINITIONS = {
    "index i": "CREATE INDEX i ON cell ((id + 1))",
    "sequence s": "CREATE SEQUENCE s",
    "table extra": "CREATE TABLE extra AS SELECT 1 AS x",
    "table other.cell": "CREATE SCHEMA other; CREATE TABLE other.cell AS SELECT 1 AS x",
    "table image": "DROP TABLE image; CREATE TABLE image (image_set INTEGER NOT NULL, image_index UINTEGER NOT NULL, "
    "path VARCHAR NOT NULL, cluster UINTEGER NOT NULL, CHECK (length(path) < 9))",
    "trigger t": "CREATE TRIGGER t AFTER INSERT ON part FOR EACH STATEMENT DELETE FROM prediction",
}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_what_has_a_part_in_storing_rows_is_named_and_nothing_is_written(
    definition: str, change_database: Callable[[str], Path], tmp_path: Path
) -> None:
    path = change_database(DEFINITIONS[definition])
    content = path.read_bytes()
    with pytest.raises(StoreError, match=f"is not as bandlens made it: .*{definition}"), open_store(path):
        pass
    with pytest.raises(StoreError, match=f"is not as bandlens made it: .*{definition}"):
        merge([path], tmp_path / "out.duckdb")
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_table_that_is_a_view_is_not_read(change_database: Callable[[str], Path]) -> None:
    path = change_database("DROP TABLE part; CREATE VIEW part AS SELECT 1 AS cell")
    with pytest.raises(StoreError, match="is not as bandlens made it: table part"), open_store(path, read_only=True):
        pass


def test_comments_are_words_and_no_definitions(change_database: Callable[[str], Path]) -> None:
    with open_store(change_database("COMMENT ON TABLE cell IS 'of mine'")) as store:
        store.checkpoint()


def test_a_reader_sees_no_macro_of_the_file(change_database: Callable[[str], Path]) -> None:
    path = change_database("CREATE MACRO best(x) AS 0.999")
    with open_store(path, read_only=True) as store, pytest.raises(StoreError, match="best does not exist"):
        store.frame("SELECT best(top1) FROM accuracy")


def test_a_merge_reaches_no_other_file(change_database: Callable[[str], Path], sound: Path, tmp_path: Path) -> None:
    path = change_database("CREATE OR REPLACE VIEW cell_detail AS SELECT content AS id FROM read_text('/etc/hostname')")
    merged = merge([path, sound], tmp_path / "out.duckdb")
    assert (merged.cells, merged.predictions) == (1, 4)


def test_serialized_sql_cannot_show_a_view_of_the_file(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.duckdb"
    path.write_bytes(sound.read_bytes())
    with duckdb.connect(path) as connection:
        connection.execute("CREATE OR REPLACE VIEW accuracy AS SELECT 'another' AS view")
        [(query,)] = connection.execute("SELECT json_serialize_sql('FROM accuracy')").fetchall()
    with open_store(path, read_only=True) as store, pytest.raises(StoreError, match="json_execute_serialized_sql"):
        store.frame(f"FROM json_execute_serialized_sql('{query}')")
