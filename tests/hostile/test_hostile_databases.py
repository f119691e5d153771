"""Results databases from somebody else: nothing that bandlens did not put into one is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from made_up_results import cell, image_set, part, store_study
from small import bandlens, make_study

from bandlens.analysis.database.open import open_store
from bandlens.errors import StoreError

SECRET = "a secret of this user's"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    images = image_set(4, labels=[0] * 4)
    path = tmp_path / "r.duckdb"
    with open_store(path) as store:
        store_study(store, "s", images, [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])])
    return path


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
    ["gate", "study.toml", "--candidate", "openvino:fp32"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_every_command_refuses_it_in_one_line(
    words: list[str], workplace: Path, changed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(HOSTILE["view cell_detail (changed)"] + ";" + HOSTILE["macro sum (added)"])
    make_study(workplace)
    monkeypatch.chdir(workplace)
    done = bandlens(*words, "--db", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("bandlens: ")
    assert "Traceback" not in done.stderr
    assert "macro sum (added), view cell_detail (changed)" in done.stderr.splitlines()[-1]


def test_a_writer_reaches_no_other_file(database: Path) -> None:
    with open_store(database) as store, pytest.raises(StoreError, match="file system operations are disabled"):
        store.execute("CREATE TABLE x AS FROM read_text('/etc/hostname')")
