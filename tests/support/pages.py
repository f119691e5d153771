"""Pages whose blocks are run: their files are written, their commands typed, their outputs compared but for times."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMES = re.compile(r"\d[\d.,]* (s|min|h)\b|\(\d[\d.,]* a second\)|(?<=images_per_second) +\d[\d.,]*")
LEFT_OUT = ("…", "[…]")
"""Lines that stand for any number of lines."""


def load_program(name: str) -> ModuleType:
    """The module of a program in docs/, which is no part of the package."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, what it printed) of a console block; `> ` continues a command."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        continued = 0
        while continued < len(rest) and rest[continued].startswith("> "):
            continued += 1
        command = "\n".join([first, *(line[2:] for line in rest[:continued])])
        yield command, "\n".join(rest[continued:])


def lines_of(output: str) -> list[list[str]]:
    """The words of each line, without times and the widths of columns."""
    plain = re.sub("─+", "─", TIMES.sub(" TIME", output))
    return [line.split() for line in plain.splitlines() if line.strip()]


def same_word(page: str, output: str) -> bool:
    """Equal, or numbers that another processor's arithmetic may have moved: by one in the last digit, or by 2 %.

    A number as small as 1e-05 is itself what rounding left, and another one is as good up to a factor of three.
    """
    if page == output:
        return True
    try:
        a, b = (float(word.strip("(),%;").replace(",", "")) for word in (page, output))
    except ValueError:
        return False
    if "e-" in page:
        return abs(a) / 3 < abs(b) < 3 * abs(a)
    digits = page.strip("(),%;").partition(".")[2]
    return "." in page and abs(a - b) <= max(1.01 * 10.0 ** -len(digits), 0.02 * abs(a))


def same_line(page: Sequence[str], output: Sequence[str]) -> bool:
    """Whether a line is the one of the page; one that ends in … goes on."""
    if page[-1].endswith("…"):
        *words, last = page
        start = last.removesuffix("…")
        return (
            len(output) > len(words)
            and all(map(same_word, words, output))
            and output[len(words)].startswith(start or output[len(words)])
        )
    return len(page) == len(output) and all(map(same_word, page, output))


def compare(page: str, output: str) -> None:
    """AssertionError at the first line that the page shows and the command did not print."""
    rest, skipping = iter(lines_of(output)), False
    for line in lines_of(page):
        if len(line) == 1 and line[0] in LEFT_OUT:
            skipping = True
            continue
        printed_line = next(rest, None)
        while skipping and printed_line is not None and not same_line(line, printed_line):
            printed_line = next(rest, None)
        assert printed_line is not None, f"not printed: {' '.join(line)}\n{output}"
        assert same_line(line, printed_line), f"shown:   {' '.join(line)}\nprinted: {' '.join(printed_line)}"
        skipping = False
    surplus = None if skipping else next(rest, None)
    assert surplus is None, f"not shown: {' '.join(surplus or [])}"


def environment_in(folder: Path) -> dict[str, str]:
    binaries = Path(sys.executable).parent
    return os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "BANDLENS_HOME": str(folder / "home")}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_in(tmp_path)


def printed_by(command: str, folder: Path, environment: dict[str, str]) -> str:
    result = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout
