"""Results databases from somebody else: nothing that bandlens did not put into one is run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from hostile_databases import make_hostile
from made_up_results import cell, image_set, part, store_study
from small import bandlens, make_study

from bandlens.analysis.database.open import open_store
from bandlens.core.errors import StoreError

SECRET = "a secret of this user's"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = image_set(4, labels=[0] * 4)
    path = tmp_path_factory.mktemp("sound") / "r.duckdb"
    with open_store(path) as store:
        store_study(store, "s", images, [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])])
    return path


@pytest.fixture
def database(sound: Path, tmp_path: Path) -> Path:
    """A copy, of which this process knows nothing."""
    return Path(shutil.copy(sound, tmp_path))


@pytest.fixture
def changed(database: Path) -> Callable[[str], Path]:
    """The database after somebody's SQL; {secret} is a file that only this user can read."""

    def change(sql: str) -> Path:
        secret = database.with_name("secret.txt")
        secret.write_text(SECRET, encoding="utf-8")
        with duckdb.connect(database) as connection:
            connection.execute(sql.format(secret=secret))
        return database

    return change


HOSTILE = {
    "view accuracy (changed)": "CREATE OR REPLACE VIEW accuracy AS SELECT content AS study FROM read_text('{secret}')",
    "view cell_detail (changed)": "CREATE OR REPLACE VIEW cell_detail AS WITH RECURSIVE r AS "
    "(SELECT 0 AS x UNION ALL SELECT x + 1 FROM r) SELECT * FROM r",
    "macro sum (added)": "CREATE MACRO sum(x) AS (SELECT content FROM read_text('{secret}'))",
    "macro metric_of (changed)": "CREATE OR REPLACE MACRO metric_of(which) AS TABLE FROM read_text('{secret}')",
    "table meta (changed)": "DROP TABLE meta; CREATE TABLE meta (schema_version INT, bandlens VARCHAR, "
    "x VARCHAR GENERATED ALWAYS AS (repeat('y', 1000000000)))",
    "table meta (missing)": "DROP TABLE meta; CREATE VIEW meta AS SELECT 3 AS schema_version, content AS bandlens "
    "FROM read_text('{secret}')",
    "schema other (added)": "CREATE SCHEMA other",
    "view other.cell (added)": "CREATE SCHEMA other; CREATE VIEW other.cell AS SELECT 1 AS x",
    "index i (added)": "CREATE INDEX i ON cell ((id + 1))",
    "sequence s (added)": "CREATE SEQUENCE s",
    "table extra (added)": "CREATE TABLE extra AS SELECT 1 AS x",
    "type JSON (added)": "CREATE TYPE JSON AS ENUM ('1')",
    "sequence id (changed)": "DROP SEQUENCE id CASCADE; CREATE SEQUENCE id INCREMENT BY -1",
    "table published (changed)": "ALTER TABLE published ALTER model SET DEFAULT 'x'",
    "table image (changed)": "DROP TABLE image; CREATE TABLE image (image_set INTEGER NOT NULL, image_index UINTEGER "
    "NOT NULL, path VARCHAR NOT NULL, cluster UINTEGER NOT NULL, CHECK (length(path) < 9))",
    "trigger t (added)": "CREATE TRIGGER t AFTER INSERT ON part FOR EACH STATEMENT DELETE FROM prediction",
    "macro curve_of (changed)": "CREATE OR REPLACE MACRO curve_of(which, x := 1) AS TABLE FROM accuracy_of(which)",
    "macro own_scheme (changed)": "CREATE OR REPLACE MACRO own_scheme(scheme VARCHAR) AS true",
    "schema main.main (added)": "CREATE SCHEMA r.main.main",
    "schema system (added)": "CREATE SCHEMA r.system; CREATE SCHEMA r.system.main; "
    "CREATE MACRO r.system.main.duckdb_tables() AS TABLE SELECT 1 AS x",
    "view flip (missing)": "DROP VIEW flip",
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("what", HOSTILE)
def test_what_bandlens_did_not_make_is_named_and_not_run(
    what: str, read_only: bool, changed: Callable[[str], Path]
) -> None:
    path = changed(HOSTILE[what])
    before = path.read_bytes()
    with pytest.raises(StoreError) as refused, open_store(path, read_only):
        pass
    expected = "not a results database" if what == "table meta (missing)" else what
    assert expected in str(refused.value)
    assert SECRET not in str(refused.value)
    assert path.read_bytes() == before


NAMES = [
    *("string_agg", "concat_ws", "list", "if", "||", "~~", "not", "coalesce", "current_database", "current_schema"),
    *("duckdb_tables", "duckdb_views", "duckdb_functions", "duckdb_databases", "duckdb_schemas", "duckdb_types"),
]


@pytest.mark.parametrize("body", ["(SELECT content FROM read_text('{secret}'))", "error('it ran')", "NULL"])
def test_no_name_of_duckdbs_is_looked_up_in_the_file(body: str, changed: Callable[[str], Path]) -> None:
    calls = ", ".join(f"({', '.join('abcd'[:count])}) AS {body}" for count in range(5))
    tables = [f"CREATE MACRO {name}() AS TABLE SELECT {body} AS x" for name in NAMES if name.startswith("duckdb_")]
    path = changed("; ".join([*(f'CREATE MACRO "{name}" {calls}' for name in NAMES), *tables]))
    with pytest.raises(StoreError) as refused, open_store(path):
        pass
    named = re.findall(r"macro (\S+) \(added\)", str(refused.value))
    assert set(named) <= set(NAMES)
    more = re.search(r" and (\d+) more;", str(refused.value))
    assert len(named) + (int(more[1]) if more else 0) == len(NAMES)


def test_a_view_that_macros_hide_is_named(database: Path) -> None:
    path = make_hostile("a view replaced, and hidden by two macros", database, database.parent)
    result = bandlens("verify", "--db", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "macro duckdb_functions (added), macro duckdb_views (added), view accuracy (changed)" in result.stderr


LIMITED = {
    "a macro nested deeply": "crashes DuckDB (SIGSEGV)",
    "a log that doubles a text": "takes more than",
}


@pytest.fixture(scope="module", params=LIMITED)
def limited(request: pytest.FixtureRequest, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A trick, and the folder of a database after it, only to be copied: to nest a macro takes seconds."""
    folder = tmp_path_factory.mktemp("limited")
    make_hostile(request.param, sound, folder)
    return request.param, folder


@pytest.mark.parametrize("read_only", [False, True])
def test_what_cannot_be_opened_is_opened_in_another_process_alone(
    read_only: bool, limited: tuple[str, Path], tmp_path: Path
) -> None:
    trick, folder = limited
    path = Path(shutil.copytree(folder, tmp_path / "copy")) / "results.duckdb"
    files = {file: file.read_bytes() for file in path.parent.glob("results.duckdb*")}
    with pytest.raises(StoreError, match="in a process of its own") as refused, open_store(path, read_only):
        pass
    assert LIMITED[trick] in str(refused.value)
    assert {file: file.read_bytes() for file in path.parent.glob("results.duckdb*")} == files


@pytest.mark.parametrize("read_only", [False, True])
def test_a_log_beside_a_database_belongs_to_what_is_compared(read_only: bool, database: Path) -> None:
    path = make_hostile("a log that replaces a view", database, database.parent)
    log = path.with_name("results.duckdb.wal").read_bytes()
    with pytest.raises(StoreError, match=r"view \w+ \(changed\)"), open_store(path, read_only):
        pass
    assert path.with_name("results.duckdb.wal").read_bytes() == log


def test_a_file_that_takes_the_name_of_a_known_one_is_tried_as_any(database: Path) -> None:
    (database.parent / "other").mkdir()
    hostile_file = make_hostile("a view meta", database, database.parent / "other")
    with open_store(database):
        hostile_file.replace(database)
    with pytest.raises(StoreError, match="not a results database"), open_store(database):
        pass


def test_comments_are_words_and_no_definitions(changed: Callable[[str], Path]) -> None:
    with open_store(changed("COMMENT ON TABLE cell IS 'of mine'"), read_only=True) as store:
        assert store.differences() == {}


def test_a_database_that_was_used_and_checkpointed_is_as_it_was_made(database: Path) -> None:
    with open_store(database) as store:
        store.execute("CHECKPOINT")
    with open_store(database, read_only=True) as store:
        assert store.differences() == {}


COMMANDS = [
    ["sql", "FROM cell"],
    ["verify"],
    ["report"],
    ["analyze"],
    ["correlate"],
    ["plan", "study.toml"],
    ["run", "study.toml"],
    ["gate", "precision", "study.toml", "--candidate", "openvino:fp32"],
    ["merge", "sound.duckdb", "--out", "merged.duckdb"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_every_command_refuses_it_in_one_line(
    words: list[str], workplace: Path, changed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(HOSTILE["view cell_detail (changed)"] + ";" + HOSTILE["macro sum (added)"])
    make_study(workplace)
    monkeypatch.chdir(workplace)
    with open_store(workplace / "sound.duckdb"):
        pass
    result = bandlens(*words, *([] if words[0] == "merge" else ["--db"]), path)
    assert (result.returncode, result.stdout) == (1, "")
    assert not (workplace / "merged.duckdb").exists()
    assert result.stderr.splitlines()[-1].startswith("bandlens: ")
    assert "Traceback" not in result.stderr
    assert "macro sum (added), view cell_detail (changed)" in result.stderr.splitlines()[-1]


def test_a_writer_reaches_no_other_file(database: Path) -> None:
    with open_store(database) as store, pytest.raises(StoreError, match="file system operations are disabled"):
        store.execute("CREATE TABLE x AS FROM read_text('/etc/hostname')")
