"""The commands and options that README and the guide name are there, and so are the messages of the FAQ."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from imports_of_folders import PACKAGE, SOURCES
from typer.main import get_command

from bandlens.app.cli.main import app

FAQ = PACKAGE / "docs" / "faq.md"
PAGES = [PACKAGE / "README.md", PACKAGE / "CONTRIBUTING.md", FAQ, *sorted((PACKAGE / "docs" / "guide").glob("*.md"))]
LINE = re.compile(r"\bbandlens ([a-z][^`\n#|;&>]*)")
"""A command with its words, in a block or in a sentence."""
OPTION = re.compile(r"--[a-z][a-z-]*")


def command_of(words: list[str]) -> Any:
    """The command that the first words name; `gate` alone judges a release."""
    command: Any = get_command(app)
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return command.commands["release"] if command.name == "gate" else command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commands_are_there(page: Path) -> None:
    lines = LINE.findall(page.read_text(encoding="utf-8").replace("\\\n", " "))
    unknown = []
    for line in lines:
        command = command_of(line.split())
        options = {
            "--help",
            *(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)),
        }
        unknown += [f"bandlens {line}: {name}" for name in OPTION.findall(line) if name not in options]
    assert unknown == []


def texts(source: str) -> list[str]:
    """The texts in a program, with … for each value that is filled in."""
    return [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]


def test_every_message_of_the_faq_is_one_of_the_program() -> None:
    refusals = FAQ.read_text(encoding="utf-8").partition("## Exit codes")[0]
    quotes = set(re.findall(r"^## `(.*)`$", refusals, re.MULTILINE))
    assert len(quotes) == 10
    quotes |= {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", refusals) if "…" in span}
    messages = "\n".join(text for file in SOURCES for text in texts(file.read_text(encoding="utf-8")))
    assert [quote for quote in sorted(quotes) if quote not in messages] == []
