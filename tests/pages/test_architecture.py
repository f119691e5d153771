"""docs/architecture.md, whose picture is drawn from the imports; and the names of files in all pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from imports_of_folders import PACKAGE, SOURCES, mermaid

PAGE = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")
PAGES = [PACKAGE / name for name in ("README.md", "CONTRIBUTING.md", "NOTICE", "LICENSES/CC-BY-SA-4.0.txt")]
PAGES += [page for folder in ("", "guide", "reference") for page in sorted((PACKAGE / "docs" / folder).glob("*.md"))]
LINK = re.compile(r"\]\((?!http|mailto)([^)\s]*)\)")
"""A link to another page, or to a heading of a page."""
FILE = re.compile(r"(?<![\w/])(?:export|probes|engine|analysis|app|benchmarks|tests)/[\w./-]*\w\.(?:py|sql|csv|toml)\b")
"""A file of the package, of benchmarks/ or of tests/, with its folder."""


def test_the_picture_shows_the_imports_of_the_sources() -> None:
    assert f"```mermaid\n{mermaid()}```" in PAGE, "run python tests/support/imports_of_folders.py and paste its graph"


def test_every_folder_of_the_package_has_a_line() -> None:
    folders = {file.parent.relative_to(PACKAGE).as_posix() for file in SOURCES} - {"."}
    assert [folder for folder in sorted(folders) if f"- `{folder}/`: " not in PAGE] == []


def test_every_module_of_the_root_has_a_line() -> None:
    modules = {file.name for file in PACKAGE.glob("*.py")}
    assert [name for name in sorted(modules) if f"- `{name}`: " not in PAGE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_that_are_there(page: Path) -> None:
    files = FILE.findall(page.read_text(encoding="utf-8"))
    assert [name for name in files if "NAME" not in name and not (PACKAGE / name).is_file()] == []


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings have where GitHub shows it."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((PACKAGE / "docs" / "decisions").glob("*.md"))], ids=lambda page: page.name
)
def test_links_of_pages_lead_somewhere(page: Path) -> None:
    broken_links = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings(target)):
            broken_links.append(link)
    assert broken_links == []
