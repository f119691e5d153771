"""The commands and options that README and the guide name are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from imports_of_folders import PACKAGE
from typer.main import get_command

from bandlens.app.cli import app

PAGES = [PACKAGE / "README.md", PACKAGE / "CONTRIBUTING.md", *sorted((PACKAGE / "docs" / "guide").glob("*.md"))]
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
        options = {"--help", *(name for parameter in command.params for name in parameter.opts)}
        unknown += [f"bandlens {line}: {name}" for name in OPTION.findall(line) if name not in options]
    assert unknown == []
