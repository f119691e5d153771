"""`bandlens sql`: it reads the database and nothing else, and says what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from queried import QUERY, make_queried, refusal
from small import Command


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_queried(tmp_path_factory.mktemp("sql"))


def test_a_table_is_for_people(command: Command, database: Path) -> None:
    answer = command("sql", QUERY, "--db", database)
    assert (answer.code, answer.err) == (0, "")
    assert [line.split() for line in answer.out.splitlines() if "0.5" in line] == [["lowpass", "0.5", "4", "0.5"]]
    assert answer.out.endswith("2 rows\n")


def test_of_several_statements_none_answers_where_one_is_wrong(command: Command, database: Path) -> None:
    for statement, message in (("SELEC 2", "syntax error"), ("DROP TABLE cell", "open for reading alone")):
        assert message in refusal(command("sql", f"SELECT 1; {statement}", "--db", database))


def test_an_empty_query_is_wrong_use(command: Command, database: Path) -> None:
    assert "the query is empty; give one SELECT" in refusal(command("sql", "/* nothing */", "--db", database), 2)


def test_parquet_and_tables_go_where_they_can(command: Command, database: Path, tmp_path: Path) -> None:
    for options in (("--out", tmp_path / "a.txt"), ("--out", tmp_path / "a.csv", "--format", "table")):
        assert "give --format csv, tsv, markdown, latex, json, parquet or arrow" in refusal(
            command("sql", QUERY, "--db", database, *options), 2
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet", "a.arrow", "a.md"])
def test_who_may_not_read_the_database_may_not_read_an_answer(
    command: Command, database: Path, tmp_path: Path, name: str
) -> None:
    database.chmod(0o600)
    words = ["--format", "markdown"] if name.endswith(".md") else []
    assert command("sql", QUERY, "--db", database, "--out", tmp_path / name, *words).code == 0
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_file_without_a_query_is_named(command: Command, database: Path, tmp_path: Path) -> None:
    message = refusal(command("sql", "-f", tmp_path / "none.sql", "--db", database), 2)
    assert f"cannot read a query from {tmp_path}/none.sql: No such file or directory; give --file" in message
