"""Queries of someone else's: they read this database, end in time, and leave nothing beside it."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import fuzz, refusal
from hypothesis import given
from hypothesis import strategies as st
from made_up_results import cell, database_of, image_set, part
from small import Command
from waiting import LIMIT_SECONDS

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.app.cli.query_output import MOST_ROWS, print_answers
from bandlens.core.errors import StoreError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = image_set(4, labels=[0] * 4)
    return database_of(tmp_path_factory.mktemp("sql"), images, [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])]).parent


@pytest.fixture
def database(folder: Path) -> Iterator[Path]:
    """A database that must be the same afterwards, and alone."""
    file = folder / "results.duckdb"
    content = file.read_bytes()
    yield file
    assert file.read_bytes() == content
    assert list(folder.iterdir()) == [file]


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Store]:
    """A store that answers one query after another, whatever was refused before, and at the end still does."""
    with open_store(folder / "results.duckdb", read_only=True) as store:
        yield store
        assert store.frame("SELECT count(*) AS n FROM study").rows() == [(1,)]


SPILL = "{db}.tmp"
"""The folder in which DuckDB puts what does not fit into memory, and lets statements write."""
STATEMENTS = [
    f"EXPORT DATABASE '{SPILL}/'",
    f"COPY cell TO '{SPILL}/x.csv'",
    f"EXPLAIN ANALYZE COPY cell TO '{SPILL}/x.csv'",
    f"SELECT 1; COPY cell TO '{SPILL}/x.csv'; SELECT 2",
    f"ATTACH '{SPILL}/x.duckdb'",
    "ATTACH '{db}' AS again (READ_WRITE)",
    "PREPARE p AS DELETE FROM study; EXECUTE p",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE PERSISTENT SECRET s (TYPE http)",
    "CALL enable_logging(storage = 'file', storage_config = {{'path': '{db}.log'}})",
    "PRAGMA profiling_output = '{db}.json'",
    "PRAGMA memory_limit = '100GB'",
    "DETACH results",
    "FORCE INSTALL httpfs",
    "UPDATE EXTENSIONS",
    "MERGE INTO study USING study AS o ON false WHEN NOT MATCHED THEN INSERT BY NAME",
]
QUERIES = [
    "WITH gone AS (DELETE FROM study_cell RETURNING *) FROM gone",
    "SELECT getenv('HF_TOKEN')",
    "FROM duckdb_secrets()",
    "FROM read_blob('/etc/passwd')",
    f"FROM read_text('{SPILL}/../../../../../../../../etc/passwd')",
    "FROM json_execute_serialized_sql(json_serialize_sql('COPY cell TO ''x.csv'''))",
    f"WITH a AS (SELECT 1), c AS MATERIALIZED (COPY (FROM a) TO '{SPILL}/x.csv') SELECT * FROM a, c",
    "FROM enable_profiling(save_location = '{db}.json')",
    "FROM enable_logging(storage = 'file', storage_config = {{'path': '{db}.log'}})",
    "FROM query('FROM enable_logging()')",
]


@pytest.mark.parametrize(
    ("statement", "spill_exists"),
    [(statement, False) for statement in STATEMENTS + QUERIES]
    + [(statement, True) for statement in STATEMENTS if SPILL in statement],
)
def test_nothing_is_written_and_nothing_else_read(
    statement: str, spill_exists: bool, folder: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    database, spill = folder / "results.duckdb", folder / "results.duckdb.tmp"
    content = database.read_bytes()
    if spill_exists:
        spill.mkdir()
    assert refusal(lambda: print_answers(store, statement.format(db=database), 0))
    assert capsys.readouterr().out == ""
    if spill_exists:
        spill.rmdir()  # this fails where it is not empty
    assert list(folder.iterdir()) == [database]
    assert database.read_bytes() == content


@pytest.mark.parametrize("query", ["PIVOT accuracy ON probe USING count(*)", "DESCRIBE accuracy", "EXPLAIN FROM cell"])
def test_every_way_to_read_is_left(query: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    print_answers(store, query, 0)
    assert "row" in capsys.readouterr().out


words = st.sampled_from(
    [
        "SELECT", "FROM", "WHERE", "1", "*", "study", "cell", "(", ")", ",", ";", "'", '"', "--", "/*", "*/", "$$", "?",
        "$1", "COPY", "TO", "ATTACH", "PRAGMA", "EXPLAIN", "ANALYZE", "PIVOT", "ON", "USING", "WITH RECURSIVE",
        "read_csv(", "'/x'", "range(9)", "UNION ALL", "::", "STRUCT", "[1]", "{", "}", "NULL", "nan", "ORDER BY ALL",
        "\0", "\x1b[31m", "é", "UPDATE EXTENSIONS", "CALL",
    ]
)  # fmt: skip


@fuzz(50)
@given(query=st.lists(words, max_size=10).map(" ".join) | st.text(max_size=40))
def test_any_words_are_answered_or_one_line(query: str, folder: Path, store: Store) -> None:
    refusal(lambda: store.frame(query))
    assert [path.name for path in folder.iterdir()] == ["results.duckdb"]


# Time and memory

LONG = [
    "SELECT count(*) FROM range(1000000000000) AS t(x) WHERE x * 7 % 13 = 5",
    "SELECT 1; SELECT sum(a.x * b.x) FROM range(100000000) a(x), range(1000000) b(x); SELECT 2",
]


@pytest.mark.parametrize("query", LONG)
def test_a_query_ends_in_time(query: str, database: Path, command: Command) -> None:
    """A query that did not would take longer than the test may."""
    answer = command("sql", query, "--db", database, "--timeout", "0.3", "--format", "csv")
    assert answer.code == 1
    assert answer.err == (
        f"bandlens: {database}: the query took more than 0.3 s; ask for less, or allow more with --timeout "
        "SECONDS (timeout=SECONDS in Python)\n"
    )


def test_the_time_of_whoever_reads_does_not_count(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, clock = 0, time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + reading)
    query = "SELECT x FROM range(3000) t(x)"
    with open_store(database, read_only=True) as store, store.reader(query, rows=1000, seconds=60) as reader:
        for batch in reader:
            reading += 1000
            assert batch.num_rows
    assert reading == 3000


def test_reader_time_limit_counts_work_on_fetched_rows(store: Store) -> None:
    def work_on_each_batch() -> None:
        with store.reader("FROM range(100000000000)", seconds=0.5) as reader:
            for _ in reader:
                end = time.thread_time() + 0.6
                while time.thread_time() < end:
                    pass

    with pytest.raises(StoreError, match="query took more than"):
        work_on_each_batch()


@pytest.mark.parametrize("timeout", ["-1", "nan"])
def test_limits_that_are_none(timeout: str, database: Path, command: Command) -> None:
    assert command("sql", "SELECT 1", "--db", database, "--timeout", timeout).code == 2


def test_a_table_is_as_long_as_someone_may_read(database: Path, command: Command) -> None:
    query = "SELECT x FROM range({}) t(x)"
    answer = command("sql", query.format(MOST_ROWS), "--db", database)
    assert answer.out.endswith(f"{MOST_ROWS - 1}\n10,000 rows\n")
    answer = command("sql", query.format(10**9), "--db", database)
    assert answer.out.endswith(f"{MOST_ROWS - 1}\nthe first 10,000 rows; --out FILE gives all\n")


def test_queries_that_are_no_text_and_output_that_nobody_reads(database: Path) -> None:
    words = [sys.executable, "-P", "-m", "bandlens", "sql", b"SELECT '\xff'", "--db", str(database)]
    result = subprocess.run(words, capture_output=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stderr) == (2, b"bandlens: the query is not UTF-8; write it in that encoding\n")
    pipeline = f"{' '.join(map(shlex.quote, [*words[:5], 'FROM range(100000)', *words[6:]]))} --format csv | head -1"
    result = subprocess.run(["bash", "-c", pipeline], capture_output=True, timeout=LIMIT_SECONDS)
    assert (result.stdout, result.stderr) == (b"range\n", b"")
