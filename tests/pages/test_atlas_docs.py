"""docs/guide/published.md and docs/findings.md are run as they stand: commands typed, outputs compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ATLAS = ROOT.parent / "shared" / "published" / "atlas"
PAGES = [ROOT / "docs" / "guide" / "published.md", ROOT / "docs" / "findings.md"]
PAGE = "".join(page.read_text(encoding="utf-8") for page in PAGES)
LEFT_OUT = "[…]"
"""A line that stands for any number of lines."""
FENCE = re.compile(r"^```(console|console-imported)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Blocks of commands; those that need sources that do not ship are marked."""
SCRIPT = re.compile(r"^```text\n((?:(?!```).)*?bandlens (?:published )?import .*?)^```$", re.MULTILINE | re.DOTALL)
"""The block that imports these sources."""


def commands(language: str) -> Iterator[tuple[str, str]]:
    """(command, what it printed); `> ` continues a command."""
    for kind, block in FENCE.findall(PAGE):
        if kind == language:
            first, *rest = block.removeprefix("$ ").splitlines()
            continued = [line[2:] for line in rest if line.startswith("> ")]
            yield "\n".join([first, *continued]), "\n".join(rest[len(continued) :])


def shape(output: str) -> list[str]:
    """Lines without what a change of load or rounding would alter: spaces and the length of rules."""
    return [" ".join(re.sub("─+", "─", line).split()) for line in output.splitlines() if line.strip()]


def compare(shown: str, printed: str) -> None:
    """AssertionError at the first line that is shown and was not printed."""
    rest, skipping = iter(shape(printed)), False
    for line in shape(shown):
        if line == LEFT_OUT:
            skipping = True
        else:
            assert line in rest if skipping else line == next(rest, None), f"not printed: {line}\n{printed}"
            skipping = False
    assert skipping or list(rest) == []


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("a", "b"), ("a", "a\nb"), ("a\nb", "a"), ("[…]\nc", "a\nb"), ("a\n[…]\nc", "a\nb\nc\nd"), ("0.12", "0.13")],
)
def test_what_drifts_is_found(shown: str, printed: str) -> None:
    with pytest.raises(AssertionError):
        compare(shown, printed)


def run(command: str, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize(("command", "printed"), list(commands("console")))
def test_what_ships_is_as_the_page_shows_it(command: str, printed: str, tmp_path: Path) -> None:
    compare(printed, run(command, tmp_path))


FOLDERS = {"humans": "humans", "timm": "timm"}
"""Source -> where its files lie, which the page calls DIR."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a results database into which everything is imported that the page imports."""
    if not ATLAS.is_dir():
        pytest.skip(f"no {ATLAS}")
    made = tmp_path_factory.mktemp("atlas")
    for file in (ATLAS / "imagenetx").iterdir():
        (made / file.name).symlink_to(file)
    for script in SCRIPT.findall(PAGE):
        run(re.sub(r"import (\S+) DIR", lambda match: f"import {match[1]} '{ATLAS / FOLDERS[match[1]]}'", script), made)
    return made


@pytest.mark.parametrize(("command", "printed"), list(commands("console-imported")))
def test_what_is_imported_is_as_the_page_shows_it(command: str, printed: str, folder: Path) -> None:
    compare(printed, run(command, folder))


def test_the_pages_have_commands_of_both_kinds() -> None:
    assert (len(list(commands("console"))), len(list(commands("console-imported")))) == (4, 2)
    assert len(SCRIPT.findall(PAGE)) == 2
