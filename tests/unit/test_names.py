"""Names say what a thing is, and no function has more parameters than a reader can hold."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from imports_of_folders import PACKAGE, PROGRAMS, SOURCES

PRONOUNS = {
    *("one", "other", "others", "mine", "theirs", "own", "of", "some", "there"),
    *("anew", "asked", "found", "given", "left", "said", "told", "wanted"),
}
"""Pronouns and participles. A name is a noun of the field instead: `cell`, not `one`; `predictions`, not `found`."""
MOST_PRONOUNS = 10
"""The most of 1,000 assignments that may bind a pronoun or participle."""
TOP_FILES = 10
"""The number of files that a message names."""

MOST_PARAMETERS = 8
AS_OTHERS_CALL_THEM = {
    "export/torch/layers.py: convolution",  # the operator of ONNX has these attributes
}
"""Functions that may have more parameters."""


def assigned_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id.strip("_")


@pytest.mark.parametrize("files", [SOURCES, PROGRAMS], ids=["package", "tests and benchmarks"])
def test_names_are_nouns_of_the_field(files: Sequence[Path]) -> None:
    assignments, pronouns = 0, Counter[str]()
    for file in files:
        names = list(assigned_names(file))
        assignments += len(names)
        pronouns[file.relative_to(PACKAGE).as_posix()] = sum(name in PRONOUNS for name in names)
    rate = 1000 * pronouns.total() / assignments
    assert rate <= MOST_PRONOUNS, f"{rate:.1f} of 1,000 assignments bind a pronoun: {pronouns.most_common(TOP_FILES)}"


def test_no_function_outside_the_commands_has_many_parameters() -> None:
    """A command, or the function that one is made of, has a parameter for each option; others take objects."""
    crowded = dict[str, int]()
    for file in SOURCES:
        path = file.relative_to(PACKAGE).as_posix()
        if path.startswith(("app/api/", "app/commands/")):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
                if count > MOST_PARAMETERS:
                    crowded[f"{path}: {node.name}"] = count
    assert crowded.keys() <= AS_OTHERS_CALL_THEM, {name: crowded[name] for name in crowded.keys() - AS_OTHERS_CALL_THEM}
