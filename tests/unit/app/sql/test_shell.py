"""The SQL prompt, driven by typed keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from bandlens.analysis.database.catalogue import schema
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.process import QueryProcess
from bandlens.app.sql.shell import completer, shell


def typed(text: str, database: Path, history: Path | None = None) -> None:
    """Open the shell on a database and type."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(text)
        with open_store(database, read_only=True) as store, QueryProcess(database, 60) as process:
            shell(store, process, history)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "results.duckdb"
    with open_store(path):
        pass
    return path


def test_a_query_of_several_lines_is_answered(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("SELECT 40 + 2\rAS answer;\r.quit\r", database)
    out = capsys.readouterr().out
    assert "answer" in out
    assert "42" in out
    assert "1 row\n" in out


def test_each_statement_of_a_line_is_answered(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("SELECT 5 AS five; SELECT 6 AS six;\r.quit\r", database)
    out = capsys.readouterr().out
    assert out.index("five") < out.index("six")
    assert out.count("1 row\n") == 2


def test_an_error_is_one_line_and_ends_nothing(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("SELECT nonsense FROM accuracy;\rDELETE FROM study;\rSELECT 7 AS seven;\r.quit\r", database)
    out = capsys.readouterr().out
    assert "nonsense" in out
    assert "seven" in out
    with open_store(database, read_only=True) as store:
        assert len(store.frame("SELECT * FROM meta")) == 1


def test_commands(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(".help\r.tables\r.schema curve\r.schema nothing\r.wrong\r.quit\r", database)
    out = capsys.readouterr().out
    assert "A query ends with a semicolon" in out
    assert "measure_value" in out
    assert "top1 / clean_top1" in out
    assert "no table or view nothing; there are accuracy, " in out
    assert "unknown command .wrong; there are .help, " in out


@pytest.mark.parametrize("word", ["exit", "quit", "QUIT;", "exit ;", ".quit"])
def test_words_that_people_type_leave(word: str, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(f"{word}\rSELECT 7 AS seven;\r", database)
    assert len(capsys.readouterr().out.splitlines()) == 1  # the greeting


def test_rows_are_shown_as_lines_where_they_are_asked_for(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("help\r.line\rSELECT 7 AS seven, 'x' AS more;\r.line\rSELECT 8 AS eight;\rquit\r", database)
    out = capsys.readouterr().out
    assert "A query ends with a semicolon" in out
    assert "seven  7\nmore   x\n1 row\n" in out
    assert "eight\n" in out


def test_the_end_of_input_leaves(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("\x04SELECT 1 AS too_late;\r", database)
    assert "too_late" not in capsys.readouterr().out


def test_history_is_kept(database: Path, tmp_path: Path) -> None:
    typed("SELECT 1;\r\x04", database, tmp_path / "history")
    assert "SELECT 1;" in (tmp_path / "history").read_text(encoding="utf-8")


def test_names_are_completed(database: Path) -> None:
    with open_store(database, read_only=True) as store:
        completions = completer(store).get_completions(Document("SELECT noise_", 13), CompleteEvent())
    assert [completion.text for completion in completions] == ["noise_sd"]


def test_every_macro_of_a_study_is_completed(database: Path) -> None:
    """Each takes the word of a study, and version_of gives the versions that it asks for."""
    macros = set(re.findall(r"^CREATE MACRO (\w+_of)\(which\) AS TABLE", schema(), re.MULTILINE))
    with open_store(database, read_only=True) as store:
        views = store.frame("SELECT view_name FROM duckdb_views() WHERE NOT internal")["view_name"]
        completions = completer(store).get_completions(Document("", 0), CompleteEvent(completion_requested=True))
    words = {completion.text.removesuffix("(") for completion in completions if completion.text.endswith("_of(")}
    assert words == macros
    assert macros == {f"{view}_of" for view in views if f"{view}_of" in macros} | {"version_of"}
