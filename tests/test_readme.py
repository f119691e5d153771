"""README is run as it stands: its files are written, its commands typed, its outputs compared but for the numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, what it printed) of a console block; `> ` continues a command."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        continued = 0
        while continued < len(rest) and rest[continued].startswith("> "):
            continued += 1
        command = "\n".join([first, *(line[2:] for line in rest[:continued])])
        yield command, "\n".join(rest[continued:])


def shape(output: str) -> list[str]:
    """Lines without what differs from machine to machine: numbers, digests, column widths."""
    plain = re.sub(r"\b[0-9a-f]{12,}\b", "DIGEST", output)
    plain = re.sub(r"\d[\d.,]*( (s|min)\b)?", "#", plain)
    return [" ".join(re.sub("─+", "─", line).split()) for line in plain.splitlines() if line.strip()]


def test_every_block_of_the_readme_does_what_it_shows(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "BANDLENS_HOME": str(tmp_path / "home")}
    ran = 0
    for language, file, body in FENCE.findall(README):
        if file:
            (tmp_path / file).write_text(body, encoding="utf-8")
        if language != "console":
            continue
        for command, printed in commands(body):
            result = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{command}\n{result.stderr}"
            assert shape(result.stdout) == shape(printed), command
            ran += 1
    assert ran >= 8


def test_its_sections_stand_in_the_order_of_a_first_day() -> None:
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert titles[:5] == ["Install", "Demo", "Your own checkpoint", "Your own probe", "SQL"]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_what_it_links_to_is_there(target: str) -> None:
    assert (ROOT / target).exists()
