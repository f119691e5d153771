"""Which folders import heavy libraries at all, that nothing imports the root package, and that names are unique."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from imports_of_folders import PACKAGE, SOURCES, package_imports

from bandlens.engine.device import requirements
from bandlens.probes.grid import KNOWN

HEAVY = {
    "altair": {"analysis/charts", "app/report"},
    "cupy": {"probes"},
    "duckdb": {"analysis/database"},
    "onnx": {"engine/backends", "engine/device", "export/onnx", "export/torch"},
    "onnxruntime": {"engine/backends", "engine/device", "export/onnx"},
    "openvino": {"engine/backends", "engine/device"},
    "polars": {
        "analysis", "analysis/charts", "analysis/comparison", "analysis/correlations", "analysis/database",
        "analysis/measures", "analysis/published", "app", "app/api", "app/commands", "app/explore", "app/report",
    },
    "pyarrow": {"analysis/database", "analysis/published", "app", "probes/images"},
    "ray": {"engine"},
    "tensorrt": {"engine/backends", "engine/device", "export/plans"},
    "torch": {
        "app", "app/api", "engine/backends", "engine/device", "export", "export/onnx", "export/torch", "export/weights",
    },
}  # fmt: skip
"""Library -> folders whose modules import it, as they are imported or later, or that call `load` for it."""


def imported(file: Path) -> Iterator[str]:
    """Top-level names of the packages that a module imports anywhere, those that `load` imports included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            argument = node.args[0]
            if node.func.id == "import_module" and isinstance(argument, ast.Constant):
                yield str(argument.value).split(".")[0]
            elif node.func.id == "load" and isinstance(argument, ast.Name) and argument.id.isupper():
                yield getattr(requirements, argument.id).module


def test_heavy_libraries_are_imported_where_the_table_says() -> None:
    folders: dict[str, set[str]] = defaultdict(set)
    for file in SOURCES:
        for name in HEAVY.keys() & set(imported(file)):
            folders[name].add(file.parent.relative_to(PACKAGE).as_posix())
    assert folders == HEAVY


def test_no_module_imports_the_root_package() -> None:
    assert [source for source, target in package_imports() if target == ""] == []


def test_no_two_classes_share_a_name() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(file.relative_to(PACKAGE).as_posix())
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_the_application_names_no_probe() -> None:
    """A probe's family has all that is to be known of it; `clean` is what all others are compared with."""
    probes = set(KNOWN) - {"clean"}
    families = {file.stem for file in (PACKAGE / "probes").glob("*.py") if "Family(" in file.read_text("utf-8")} - {
        *("clean", "family", "user"),
    }
    named: dict[str, set[str]] = defaultdict(set)
    for file in SOURCES:
        name = file.relative_to(PACKAGE).as_posix()
        if not name.startswith("app/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in probes:
                named[name].add(str(node.value))
            elif isinstance(node, ast.ImportFrom) and node.module in {f"probes.{family}" for family in families}:
                named[name] |= {alias.name for alias in node.names}
    for script in (PACKAGE / "app").rglob("*.js"):
        words = re.findall(r"""["'`](\w+)["'`]""", script.read_text(encoding="utf-8"))
        named[script.relative_to(PACKAGE).as_posix()] |= probes & set(words)
    assert {name: sorted(names) for name, names in named.items() if names} == {}
