"""Imports inside the package, read from the sources, and the graph of them that docs/architecture.md shows.

`python tests/support/imports_of_folders.py` prints that graph.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2]
FOLDERS = ("export", "probes", "engine", "analysis", "app")
SOURCES = sorted([*PACKAGE.glob("*.py"), *(file for folder in FOLDERS for file in (PACKAGE / folder).rglob("*.py"))])
PROGRAMS = sorted(file for folder in ("tests", "benchmarks", "docs") for file in (PACKAGE / folder).rglob("*.py"))
"""Files that no user imports."""


def module_of(file: Path) -> str:
    """`app.cli` for app/cli.py, `app` for app/__init__.py, and nothing for the package itself."""
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


def folder_imports() -> set[tuple[str, str]]:
    """(importing folder, imported folder), two levels deep; what lies in the root and what it imports are left out."""
    pairs = {(_folder(source), _folder(target)) for source, target in package_imports()}
    return {(source, target) for source, target in pairs if source and target and source != target}


def mermaid() -> str:
    """The folders and their imports as a Mermaid graph.

    A box in a box is a folder in a folder. An arrow of a whole box stands for those of several of its folders: where a
    folder of one top folder imports from another, the arrow joins the two top folders.
    """
    inner = {pair for pair in folder_imports() if pair[0].split("/")[0] == pair[1].split("/")[0]}
    outer = {(source.split("/")[0], target.split("/")[0]) for source, target in folder_imports() - inner}
    lines = ["graph TD"]
    for top in reversed(FOLDERS):
        below = sorted({_folder(module) for module in MODULES if _folder(module).startswith(f"{top}/")})
        lines.append(f'  subgraph {top}["{top}/"]')
        lines += [f'    {_id(folder)}["{folder.split("/")[1]}/"]' for folder in below]
        if any(top in pair for pair in inner):
            lines.append(f'    {top}_own(["modules of {top}/ itself"])')
        lines += [f"    {_id(source)} --> {_id(target)}" for source, target in sorted(inner) if source.startswith(top)]
        lines.append("  end")
    lines += [f"  {source} --> {target}" for source, target in sorted(outer)]
    return "\n".join(lines) + "\n"


def _folder(module: str) -> str:
    return "/".join(MODULES[module].parent.relative_to(PACKAGE).parts[:2])


def _id(folder: str) -> str:
    return folder.replace("/", "_") if "/" in folder else f"{folder}_own"


if __name__ == "__main__":
    print(mermaid(), end="")
