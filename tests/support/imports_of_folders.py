"""Imports inside the package, read from the sources, and the graph of them that docs/architecture.md shows.

`python tests/support/imports_of_folders.py` prints that graph.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2]
FOLDERS = ("core", "export", "probes", "engine", "analysis", "app")
SOURCES = sorted([*PACKAGE.glob("*.py"), *(file for folder in FOLDERS for file in (PACKAGE / folder).rglob("*.py"))])
PROGRAMS = sorted(file for folder in ("tests", "benchmarks", "docs") for file in (PACKAGE / folder).rglob("*.py"))
"""Files that no user imports."""


def module_of(file: Path) -> str:
    """`app.cli` for app/cli/main.py, `app` for app/__init__.py, and nothing for the package itself."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_of(file): file for file in SOURCES}


def package_imports() -> Iterator[tuple[str, str]]:
    """(importing module, imported module) of every import inside the package, wherever in a module it stands."""
    for name, file in MODULES.items():
        folder = list(file.parent.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = folder[: len(folder) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    inner = f"{base}.{alias.name}".lstrip(".")
                    yield name, inner if inner in MODULES else base


def mermaid() -> str:
    """The top folders and their imports as a Mermaid graph; core is left out, which every room imports."""
    pairs = {(source.partition(".")[0], target.partition(".")[0]) for source, target in package_imports()}
    rooms = {*FOLDERS} - {"core"}
    arrows = sorted((source, target) for source, target in pairs if {source, target} <= rooms and source != target)
    return "\n".join(["graph TD", *(f"  {source} --> {target}" for source, target in arrows)]) + "\n"


if __name__ == "__main__":
    print(mermaid(), end="")
