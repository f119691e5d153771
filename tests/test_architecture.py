"""docs/architecture.md: its picture is drawn from the imports, and every folder has its line."""

from __future__ import annotations

from imports_of_folders import PACKAGE, SOURCES, mermaid

PAGE = (PACKAGE / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_shows_the_imports_of_the_sources() -> None:
    assert f"```mermaid\n{mermaid()}```" in PAGE, "run python tests/imports_of_folders.py and paste its graph"


def test_every_folder_of_the_package_has_a_line() -> None:
    folders = {file.parent.relative_to(PACKAGE).as_posix() for file in SOURCES} - {"."}
    assert [folder for folder in sorted(folders) if f"| `{folder}/` |" not in PAGE] == []


def test_every_module_of_the_root_has_a_line() -> None:
    modules = {file.name for file in PACKAGE.glob("*.py")}
    assert [name for name in sorted(modules) if f"| `{name}` |" not in PAGE] == []
