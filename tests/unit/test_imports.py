"""All modules of the package keep to these: who imports what, who names what, and in which order joins give rows."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from imports_of_folders import PACKAGE, SOURCES, package_imports

from bandlens.analysis.metrics.registry import MEASURES
from bandlens.core.protocol import ACCURACIES, GROUPS
from bandlens.engine.device import requirements
from bandlens.probes.family import CLEAN
from bandlens.probes.grid import PROBES

Modules = Mapping[str, Sequence[ast.AST]]
WORDS = {name for name in MEASURES if "_" not in name} | {f"top1_{name}" for name in ACCURACIES} | {*GROUPS}
"""Measures that are called by words which mean something else, too, or by what the protocol calls them."""
PREFIXES = ("psychometric_", "critical_bandw", "critical_center", "critical_peak", "critical_thr", "shape_bias")
HEAVY = {
    "altair": {"analysis/charts", "app/report"},
    "cupy": {"probes"},
    "duckdb": {"analysis/database"},
    "onnx": {"engine/backends", "engine/device", "export/onnx", "export/torch"},
    "onnxruntime": {"engine/backends", "engine/device", "export/onnx"},
    "openvino": {"engine/backends", "engine/device"},
    "polars": {
        "analysis", "analysis/charts", "analysis/comparison", "analysis/correlations", "analysis/database",
        "analysis/metrics", "analysis/metrics/families", "analysis/published", "app/api", "app/cli", "app/cli/commands",
        "app/explore", "app/report", "app/study",
    },
    "pyarrow": {"analysis/database", "analysis/published", "app/cli", "probes/images"},
    "pynvml": {"engine/device"},
    "ray": {"engine"},
    "tensorrt": {"engine/backends", "engine/device", "export/plans"},
    "torch": {
        "app/api", "engine/backends", "engine/device", "export", "export/onnx", "export/torch", "export/weights",
    },
}  # fmt: skip
"""Library -> folders whose modules import it, as they are imported or later, or that call `load` for it."""


@pytest.fixture(scope="module")
def modules() -> dict[str, list[ast.AST]]:
    """Name of a module's file -> all nodes of its syntax tree; parsing them takes most of the time of these tests."""
    return {
        file.relative_to(PACKAGE).as_posix(): list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        for file in SOURCES
    }


def find_imports(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Top-level names of the packages that a module imports anywhere, those that `load` imports included."""
    for node in nodes:
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


def test_heavy_libraries_are_imported_where_the_table_says(modules: Modules) -> None:
    folders: dict[str, set[str]] = defaultdict(set)
    for file, nodes in modules.items():
        for name in HEAVY.keys() & set(find_imports(nodes)):
            folders[name].add(Path(file).parent.as_posix())
    assert folders == HEAVY


def test_no_module_imports_the_root_package() -> None:
    assert [source for source, target in package_imports() if target == ""] == []


def test_no_two_classes_share_a_name(modules: Modules) -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for file, nodes in modules.items():
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                where[node.name].append(file)
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_the_application_names_no_probe(modules: Modules) -> None:
    """A probe's family has all that is to be known of it; `clean` is what all others are compared with."""
    probes = set(PROBES) - {"clean"}
    families = {file.stem for file in (PACKAGE / "probes").glob("*.py") if "Family(" in file.read_text("utf-8")} - {
        *("clean", "family", "user"),
    }
    names_by_file: dict[str, set[str]] = defaultdict(set)
    for file, nodes in modules.items():
        for node in nodes if file.startswith("app/") else ():
            if isinstance(node, ast.Constant) and node.value in probes:
                names_by_file[file].add(str(node.value))
            elif isinstance(node, ast.ImportFrom) and node.module in {f"probes.{family}" for family in families}:
                names_by_file[file] |= {alias.name for alias in node.names}
    for script in (PACKAGE / "app").rglob("*.js"):
        words = re.findall(r"""["'`](\w+)["'`]""", script.read_text(encoding="utf-8"))
        names_by_file[script.relative_to(PACKAGE).as_posix()] |= probes & set(words)
    assert {name: sorted(names) for name, names in names_by_file.items() if names} == {}


def test_every_join_of_frames_keeps_an_order(modules: Modules) -> None:
    """Without it, Polars gives rows in any. Joins that only leave rows out keep the order of the left side."""
    disordered = []
    for file, nodes in modules.items():
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
                options = {keyword.arg: keyword.value for keyword in node.keywords}
                how = options.get("how")
                leaves_out = isinstance(how, ast.Constant) and how.value in ("anti", "semi", "cross")
                if "on" in options and "maintain_order" not in options and not leaves_out:
                    disordered.append(f"{file}:{node.lineno}")
    assert not disordered, f"joins without maintain_order: {disordered}"


def test_no_other_module_names_a_measure(modules: Modules) -> None:
    names_by_file: dict[str, set[str]] = defaultdict(set)
    for file, nodes in modules.items():
        prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes if not file.startswith(("analysis/metrics/", "core/")) else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                names_by_file[file] |= {node.value} & (MEASURES.keys() - WORDS)
                names_by_file[file] |= {node.value} if node.value.startswith(PREFIXES) else set()
    assert {file: names for file, names in names_by_file.items() if names} == {}


def test_the_schema_names_no_probe_but_the_one_that_changes_nothing() -> None:
    text = (PACKAGE / "analysis/database/schema.sql").read_text(encoding="utf-8")
    assert [name for name in PROBES if f"'{name}'" in text] == [CLEAN.name]
