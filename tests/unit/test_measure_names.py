"""Measures and probes declare themselves: no other module names a measure, and no view a probe."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandlens.analysis.measures.registry import MEASURES
from bandlens.core.protocol import ACCURACIES, GROUPS
from bandlens.probes.family import CLEAN
from bandlens.probes.grid import KNOWN

ROOT = Path(__file__).parents[2]
FOLDERS = ("analysis", "app", "engine", "export", "probes")
WORDS = {name for name in MEASURES if "_" not in name} | {f"top1_{name}" for name in ACCURACIES} | {*GROUPS}
"""Measures that are called by words which mean something else, too, or by what the protocol calls them."""
PREFIXES = ("psychometric_", "critical_bandw", "critical_center", "critical_peak", "critical_thr", "shape_bias")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path.relative_to(ROOT).parts[:2] != ("analysis", "measures")
)


def texts(path: Path) -> Iterator[str]:
    """The texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_module_names_a_measure(path: Path) -> None:
    named = [text for text in texts(path) if text in MEASURES.keys() - WORDS or text.startswith(PREFIXES)]
    assert named == []


def test_the_schema_names_no_probe_but_the_one_that_changes_nothing() -> None:
    text = (ROOT / "analysis/database/schema.sql").read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"'{name}'" in text] == [CLEAN.name]
