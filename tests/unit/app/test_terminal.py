"""A function and a printer become a command: its options, its help, and the arguments that each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pytest
import typer
from typer.testing import CliRunner

from bandlens.app.api.parameters import File
from bandlens.app.terminal import command
from bandlens.core.jobs import Progress, silent

if TYPE_CHECKING:
    from bandlens.app.study.file import Study


def work(
    study: Study | File,
    names: Sequence[str] = (),
    *,
    size: Annotated[int, typer.Option(min=1)] = 3,
    pair: Annotated[tuple[str, str] | None, typer.Option(parser=lambda text: tuple(text.split(",")))] = None,
    deep: bool = False,
    hidden: int = 7,
    progress: Progress = silent,
) -> dict[str, object]:
    """Do the work.

    It takes a while.

    Args:
        study: the study, whose
            text goes on.
        size: how large.

    Returns all arguments. Raises nothing.
    """
    return {"study": study, "names": names, "size": size, "pair": pair, "deep": deep, "hidden": hidden, "bar": progress}


def show(result: dict[str, object], study: Path, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
    """Example: work a.toml

    Args:
        loud: say it loudly.
    """
    result.pop("bar")
    print(study, loud, sorted(result.items()))


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(command(work, show, hidden=8))
    return app


def test_help_is_what_the_docstrings_say(app: typer.Typer) -> None:
    page = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    for text in ("Do the work.", "It takes a while.", "Example: work a.toml", "The study, whose text goes on."):
        assert text in page
    for text in ("How large.", "Say it loudly.", "STUDY <path>", "--names <list[str]>", "x>=1"):
        assert text in page
    assert not [text for text in ("Returns", "Raises", "Args:", "hidden", "progress") if text in page]


def test_the_function_and_the_printer_get_their_arguments(app: typer.Typer) -> None:
    page = CliRunner().invoke(app, ["a.toml"]).output
    usual = "[('deep', False), ('hidden', 8), ('names', ()), ('pair', None), ('size', 3), ('study', "
    assert page == f"a.toml False {usual}{Path('a.toml')!r})]\n"
    words = ["a.toml", "--names", "x", "--names", "y", "--pair", "1,2", "--deep", "--loud", "--size", "5"]
    page = CliRunner().invoke(app, words).output
    assert (
        "a.toml True [('deep', True), ('hidden', 8), ('names', ['x', 'y']), ('pair', ('1', '2')), ('size', 5)" in page
    )
