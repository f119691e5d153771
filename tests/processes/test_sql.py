"""`bandlens sql` answers in every format, ends soon, and says what is wrong in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from queried import QUERY, make_queried, refusal
from small import Command
from waiting import LIMIT_SECONDS, wait_until

from bandlens.analysis.database.errors import NATIVE, PLAIN
from bandlens.analysis.database.open import open_store
from bandlens.app.cli.query_output import BINARY, write_answer
from bandlens.core.errors import UsageError


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_queried(tmp_path_factory.mktemp("sql"))


def test_an_option_decides_on_the_format_of_a_file_whose_name_does_not(
    command: Command, database: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answer"
    answer = command("sql", QUERY, "--db", database, "--out", out, "--format", "parquet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert pl.read_parquet(out).rows() == [("clean", None, 4, 0.75), ("lowpass", 0.5, 4, 0.5)]


def test_python_variables_are_no_tables(command: Command, database: Path) -> None:
    for name in ("frame", "rows", "sql", "files"):
        assert "does not exist" in refusal(command("sql", f"FROM {name}", "--db", database))


SEVERAL = "SELECT 1 AS one; -- a remark; with a semicolon\nPIVOT (SELECT 2 AS two) ON two; SELECT ';' AS three;"


def test_of_several_statements_each_one_answers(command: Command, database: Path, tmp_path: Path) -> None:
    text = "one\n1\n\n2\n1\n\nthree\n;\n"
    assert command("sql", SEVERAL, "--db", database, "--format", "csv").out == text
    assert command("sql", SEVERAL, "--db", database, "--out", tmp_path / "all.csv").code == 0
    assert (tmp_path / "all.csv").read_text() == text
    tables = command("sql", SEVERAL, "--db", database).out.split("1 row\n")
    assert [table.split()[0] for table in tables[:3]] == ["one", "2", "three"]


def test_parquet_and_arrow_hold_one_answer(command: Command, database: Path, tmp_path: Path) -> None:
    message = refusal(command("sql", SEVERAL, "--db", database, "--out", tmp_path / "a.parquet"), 2)
    assert "Parquet holds one answer, and these are 3 statements; give one" in message
    assert list(tmp_path.iterdir()) == []


NESTED_ENUMS = ("[small_enum]", "{'a': small_enum}", "map {1: small_enum}", "union_value(e := small_enum)")
READERS = {
    "csv": "read_csv('{}', header = true, all_varchar = true)",
    "json": "read_json('{}', columns = {{v: 'VARCHAR'}})",
    "parquet": "read_parquet('{}')",
}
BEYOND_ARROW = ("HUGEINT", "TIME", "TIME_NS")
"""Types of which DuckDB has values that Arrow has not, such as 24:00:00."""


def _is_nested(kind: str) -> bool:
    return kind.startswith(("INTEGER[", "DOUBLE[", "VARCHAR[", "STRUCT("))


@pytest.mark.parametrize("ending", [*READERS, "arrow"])
def test_every_type_comes_out_as_duckdb_has_it_or_is_refused(database: Path, tmp_path: Path, ending: str) -> None:
    """DuckDB reads each file back: it has to hold what the same value is as text."""
    columns = [(f'"{row[0]}"', str(row[1])) for row in duckdb.sql("DESCRIBE FROM test_all_types()").fetchall()]
    refusals = set()
    types = NATIVE if ending in BINARY else PLAIN
    with open_store(database, read_only=True) as store:
        for column, kind in [*columns, *((enum, "") for enum in NESTED_ENUMS)]:
            query, out = f"SELECT {column} AS v FROM test_all_types()", tmp_path / f"answer.{ending}"
            try:
                with out.open("wb") as sink, store.reader(query, types=types) as reader:
                    write_answer(reader, ending, sink)
            except UsageError:
                refusals.add(kind)
                continue
            if ending == "json" and _is_nested(kind):  # as text, JSON is written in another way
                assert len(json.loads(out.read_text())) == 3
                continue
            # A connection of its own for each: an error within DuckDB ends the connection.
            with duckdb.connect() as connection:
                texts = connection.sql(f"SELECT v::VARCHAR FROM ({query})").fetchall()
                content = pa.ipc.open_stream(out.read_bytes()).read_all() if ending == "arrow" else None
                table = "content" if content else READERS[ending].format(out)
                assert connection.sql(f"SELECT v::VARCHAR FROM {table}").fetchall() == texts, column
    limits = {kind for _, kind in columns if (kind in BEYOND_ARROW if ending in BINARY else _is_nested(kind))}
    assert refusals == (limits if ending != "json" else set())


def test_a_file_that_cannot_be_written_is_named(command: Command, database: Path, tmp_path: Path) -> None:
    (tmp_path / "answer.csv").mkdir()
    message = refusal(command("sql", QUERY, "--db", database, "--out", tmp_path / "answer.csv"), 2)
    assert f"cannot write {tmp_path}/answer.csv" in message


def test_large_answers_are_written_as_they_come(command: Command, database: Path, tmp_path: Path) -> None:
    query = "SELECT x, x::VARCHAR AS text FROM range(350000) AS t(x)"
    for ending in ("csv", "json", "parquet"):
        out = tmp_path / f"answer.{ending}"
        assert command("sql", query, "--db", database, "--out", out).code == 0
        frame = getattr(pl, f"read_{ending}")(out)
        assert frame["x"].to_list() == list(range(350_000))


def test_an_error_in_the_middle_of_an_answer_leaves_no_file(command: Command, database: Path, tmp_path: Path) -> None:
    query = "SELECT CASE WHEN x = 340000 THEN error('odd one') ELSE x END FROM range(350000) AS t(x)"
    assert "odd one" in refusal(command("sql", query, "--db", database, "--out", tmp_path / "answer.csv"))
    assert list(tmp_path.iterdir()) == []


def test_a_query_comes_from_a_file_or_is_piped_in(database: Path, tmp_path: Path) -> None:
    (tmp_path / "query.sql").write_text("SELECT 7 AS seven -- a remark\n")
    environment = os.environ | {"BANDLENS_DB": str(database)}
    for name, stdin in ((tmp_path / "query.sql", ""), ("-", "SELECT 7 AS seven\n")):
        command = [sys.executable, "-P", "-m", "bandlens", "sql", "-f", str(name), "--format", "csv"]
        ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=environment)
        assert (ran.stdout, ran.stderr) == ("seven\n7\n", "")


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_ctrl_c_ends_a_long_query_soon(database: Path, delay: float, tmp_path: Path) -> None:
    """`delay` is in seconds since the database is being opened: it is ready for the query, or at work."""
    query = "SELECT count(*) FROM range(1000000000000) AS t(x) WHERE x * 7 % 13 = 5"
    words = [sys.executable, "-P", "-m", "bandlens", "sql", query, "--db", str(database)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_until(lambda: list(tmp_path.iterdir()), process)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130
    assert err.strip() == "bandlens: interrupted; what was committed stays, run the same command to go on"


def test_the_next_command_removes_the_folder_of_one_that_was_killed(database: Path, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    endless = [*(sys.executable, "-P", "-m", "bandlens", "sql", "SELECT count(*) FROM range(1e15::BIGINT)"), "--db"]
    with subprocess.Popen([*endless, database], env=environment, text=True) as killed:
        # Python tries the folder of temporary files with a file of its own first.
        wait_until(lambda: any(path.is_dir() for path in tmp_path.iterdir()), killed)
        killed.kill()
    assert list(tmp_path.iterdir())
    command = [sys.executable, "-P", "-m", "bandlens", "sql", "SELECT 1", "--db", database]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert list(tmp_path.iterdir()) == []
