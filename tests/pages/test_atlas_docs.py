"""docs/guide/published.md and docs/findings.md are run as they stand: commands typed, outputs compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import FENCE, ROOT, commands, compare, environment_in, printed_by

ATLAS = ROOT.parent / "shared" / "published" / "atlas"
PAGES = [ROOT / "docs" / "guide" / "published.md", ROOT / "docs" / "findings.md"]
PAGE = "".join(page.read_text(encoding="utf-8") for page in PAGES)


def blocks(language: str) -> list[tuple[str, str]]:
    """(command, what it printed) of the pages' blocks: `console-imported` marks those that need what does not ship."""
    return [pair for kind, _, body in FENCE.findall(PAGE) if kind == language for pair in commands(body)]


SCRIPT = re.compile(r"^```text\n((?:(?!```).)*?bandlens (?:published )?import .*?)^```$", re.MULTILINE | re.DOTALL)
"""The block that imports these sources."""


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample, which the page writes before it asks."""
    folder = tmp_path_factory.mktemp("sampled")
    printed_by("bandlens sample", folder, environment_in(folder))
    return folder


@pytest.mark.parametrize(("command", "output"), blocks("console"))
def test_what_ships_is_as_the_page_shows_it(command: str, output: str, sampled: Path) -> None:
    compare(output, printed_by(command, sampled, environment_in(sampled)))


FOLDERS = {"humans": "humans", "timm": "timm"}
"""Source -> where its files lie, which the page calls DIR."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a results database into which everything is imported that the page imports."""
    if not ATLAS.is_dir():
        pytest.skip(f"no {ATLAS}")
    folder = tmp_path_factory.mktemp("atlas")
    for file in (ATLAS / "imagenetx").iterdir():
        (folder / file.name).symlink_to(file)
    scripts = SCRIPT.findall(PAGE)
    assert len(scripts) == 2
    for script in scripts:
        with_folders = re.sub(
            r"import (\S+) DIR", lambda match: f"import {match[1]} '{ATLAS / FOLDERS[match[1]]}'", script
        )
        printed_by(with_folders, folder, environment_in(folder))
    return folder


@pytest.mark.parametrize(("command", "output"), blocks("console-imported"))
def test_what_is_imported_is_as_the_page_shows_it(command: str, output: str, folder: Path) -> None:
    compare(output, printed_by(command, folder, environment_in(folder)))
