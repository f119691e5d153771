"""The command line as a whole: help of every command, light start, one-line errors and their exit codes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from made_up_results import cell, database_of, image_set, part
from small import Command
from typer.main import get_command
from typer.testing import CliRunner

from bandlens.app.cli import main as cli
from bandlens.app.cli.main import COMMANDS, app
from bandlens.core.log import log


def commands_by_path() -> dict[tuple[str, ...], Any]:
    """Every command and group of commands, by the words that call it."""
    commands: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        commands[path] = command
        for name, child in getattr(command, "commands", {}).items():
            walk(child, (*path, name))

    walk(get_command(app), ())
    return commands


def test_the_lines_of_help_begin_the_help_of_the_commands() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = {name: line for group in COMMANDS.values() for name, (_, line) in group.items()}
    helps = {name: " ".join((commands[name].help or "").split()) for name in lines}
    assert {name: text[: len(lines[name])] for name, text in helps.items()} == lines


def test_no_command_has_more_than_fifteen_options() -> None:
    for path, command in commands_by_path().items():
        options = [parameter for parameter in command.params if parameter.opts[0].startswith("-")]
        assert len(options) <= 15, path


def test_every_command_has_help_with_an_example() -> None:
    paths = commands_by_path()
    for path in paths:
        result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == 0, path
        is_group = any(below[: len(path)] == path and len(below) > len(path) for below in paths)
        assert is_group or "Example" in result.output, f"{path} has help without an example"


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["sql", "SELECT 1", "--db", "."], 1, "bandlens: . is a folder; name the file of a database"),
        (["probes", "preview", "no.jpg"], 2, "bandlens: cannot read no.jpg: No such file or directory"),
        (["merge", "a.duckdb"], 2, "bandlens: Missing option '--out' (The new database); see `"),
        (["look", "mine.onnx"], 2, "bandlens: Missing argument 'IMAGES'; usage: bandlens look MODEL IMAGES; see `"),
        (["plan", "no.toml", "--cell"], 2, "bandlens: unknown option '--cell'; did you mean --cells?"),
        (
            ["plan", "no.toml", "--batch", "8"],
            2,
            "bandlens: unknown option '--batch'; batch is a key of a study, which its file gives",
        ),
        (["plan", "--study", "no.toml"], 2, "unknown option '--study'; it is an argument: bandlens plan STUDY"),
        (["export", "mine", "--arch", "x"], 2, "unknown option '--arch'; did you mean --architecture?"),
        (["report", "--folder", "x"], 2, "bandlens: x is for figures; name some, or all: --figures all"),
        (["export", "mine", "--models", "x"], 2, "bandlens: unknown option '--models'; see `"),
        (["sql", "FROM", "x"], 2, "unexpected extra argument(s) (x); put a text with spaces into quotes; "),
        (
            ["sql", "FROM x", "FROM y"],
            2,
            "unexpected extra argument(s) (FROM y); usage: bandlens sql QUERY; see `bandlens sql",
        ),
        (["sql", "a.duckdb", "FROM x"], 2, "unexpected extra argument(s) (FROM x); a database is named with --db; "),
        (["plan", "no.toml", "-v"], 2, "unknown option '-v'; it stands in front: bandlens -v plan …; see `"),
        (["demo", *(f"photos/{n}.jpg" for n in range(9))], 2, "photos/3.jpg …); usage: bandlens demo; see `"),
        (["demo", "a"], 2, "unexpected extra argument(s) (a); usage: bandlens demo; see `"),
        (["sql", "FROM x", "--out="], 2, "bandlens: --out has no value; give it one, or leave it out"),
        (["export", "x", "--normalization", "0.1,", "0.2"], 2, "bandlens: '0.1,' ends with a comma; write a list with"),
        (["run", "study.toml", "--out", "x"], 2, "bandlens: unknown option '--out'; known: --db, --engine, "),
        (["correlate", "--baseline", "timm"], 2, "bandlens: --baseline is for --target effective; give both, or"),
        (["report", "--db"], 2, "bandlens: Option '--db' requires an argument; see `"),
        (["verify", "no.duckdb"], 2, "(no.duckdb); a database is named with --db; see `"),
        (["sql", "query.sql"], 2, "bandlens: query.sql is a file of a query; give it with --file"),
        (["analyze", "mine", "--db", "no.duckdb"], 2, "bandlens: no results database at no.duckdb"),
        (["correlate", "mine"], 2, "bandlens: no results database at results.duckdb"),
        (["gate", "mine", "--against", "a.ducdb"], 2, "bandlens: no results database at a.ducdb; `bandlens run "),
        (["gate", "precison", "study.toml"], 2, "bandlens: unknown command 'precison'; did you mean precision?"),
        (["gate", "cars@2", "cars@1"], 2, "; if it is a study, write: bandlens gate cars@2 --against cars@1"),
        (["export", "net.pth", "--head", "no.toml"], 2, "bandlens: no file no.toml; the TOML file of a head has the "),
        (["export", "x", "--head", "mutlilabel"], 2, "bandlens: unknown head 'mutlilabel'; did you mean multilabel?"),
        (["export", "x", "--calibration", "photos"], 2, "bandlens: photos: not an image set; make one with"),
        (["export", "x", "--outputs", "logit"], 2, "bandlens: Invalid value for '--outputs': 'logit' is not one of "),
        (["-x", "run", "study.toml"], 2, "bandlens: unknown option '-x'; known: "),
        (["--db", "a.duckdb", "verify"], 2, "; an option of a command stands behind the command's name; see `"),
        (["compare", "mine", "--precision", "fp32,int8"], 2, "unknown option '--precision'; did you mean --precisions"),
        (["report", "--out", "report.pdf"], 2, "bandlens: report.pdf: a report is HTML; name it report.html, and "),
        (["repotr"], 2, "bandlens: No such command 'repotr'. Did you mean 'report', 'export'?; see `"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_there_gets_one_line_on_stderr(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], exit_code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = command(*words)
    assert (answer.code, answer.out) == (exit_code, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_database_of_commands_that_need_one(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANDLENS_DB", "mine.duckdb")
    for words in (["analyze"], ["explore"]):
        assert command(*words).err.startswith("bandlens: no results database at mine.duckdb"), words
    assert command("analyze").err.endswith("; $BANDLENS_DB names mine.duckdb\n")
    assert command("published", "show").code == 0, "published figures need none"
    assert command("published", "import", "testbed").code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["mine.duckdb"]


def test_probes_list_says_once_what_a_probe_does_and_which_are_not_listed(command: Command) -> None:
    page = command("probes", "list").out
    assert page.count("keeps frequencies up to") == 1
    assert [page.count(f"cutoff={cutoff} ") + page.count(f"cutoff={cutoff}\n") for cutoff in (0.1, 0.9)] == [2, 2]
    assert "\nmore probes for a study: fourier, " in page
    rows = json.loads(command("probes", "list", "--format", "json").out)
    assert (len(rows), rows[0]["probe"]) == (52, "clean")


def test_commands_stand_under_what_one_does() -> None:
    page = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    headings = re.findall(r"^(\w[\w ]*):$", page, re.MULTILINE)
    assert headings == ["Options", "Start", "Prepare", "Run", "Look", "Ask", "Advanced"]
    commands = re.findall(r"^  ([a-z][a-z-]*)  ", page, re.MULTILINE)
    assert sorted(commands) == sorted(get_command(app).commands)  # type: ignore[attr-defined]
    assert max(map(len, page.splitlines())) <= 80


def test_quiet_hides_notes_and_no_errors(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for words, lines in (((), ["a note", "a warning", "an error"]), (("-q",), ["a warning", "an error"])):
        command(*words, "checkpoints", "list", "tv_resnet50")
        log.info("a note")
        log.warning("a warning")
        log.error("an error")
        assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [("checkpoints", "list", "--format", "json"), ("--help",)], ids=str)
def test_a_full_disk_behind_standard_output_is_one_line(
    words: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as disk:
        monkeypatch.setattr(sys, "stdout", disk)
        answer = command(*words)
        monkeypatch.undo()
    assert (answer.code, answer.err) == (
        1,
        "bandlens: cannot write standard output: No space left on device; make room, and run the same command again\n",
    )


def test_an_error_that_nobody_foresaw_is_one_line_with_a_status_of_its_own(command: Command, tmp_path: Path) -> None:
    images = image_set(4, labels=[0] * 4)
    db = database_of(tmp_path, images, [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])])
    with duckdb.connect(db) as connection:
        connection.execute("UPDATE cell SET checkpoint = 999999")
    words = ["report", "--db", db, "--out", tmp_path / "report.html"]
    answer = command(*words)
    assert (answer.code, answer.out) == (70, "")
    assert answer.err == (
        f"bandlens: this is a fault of bandlens or of {db}: KeyError: 999999; bandlens -v … shows where it arose, and "
        f"`bandlens verify --db {db}` checks the file\n"
    )
    assert "app/report/data.py" in command("-v", *words).err


def test_notes_of_libraries_are_no_databases_of_an_error(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    error = KeyError("x")
    error.add_note("the library's hint " * 100)

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert command().err.startswith("bandlens: this is a fault of bandlens or of a file that it reads: KeyError: 'x'")
