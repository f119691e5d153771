"""Names say what a thing is, and no function has more parameters than a reader can hold."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from imports_of_folders import PACKAGE, PROGRAMS, SOURCES

EMPTY_NAMES = {
    *("one", "other", "others", "mine", "theirs", "own", "of", "some", "there", "each", "what", "which", "more"),
    *("most", "both", "alone", "together", "now", "whole", "anew", "asked", "found", "given", "left", "said"),
    *("told", "wanted", "drawn", "kept", "known", "right", "taken", "shown", "printed", "few", "started", "opened"),
    *("before", "after", "caught", "wrong", "moved", "named", "judged", "lost", "ended", "refused", "changed"),
    *("chosen", "listed", "planned"),
}
"""Pronouns, participles and adjectives. A name is a noun of the field: `cell`, not `one`; `hits`, not `right`."""
MOST_EMPTY_NAMES = 5
"""The most of 1,000 assignments and parameters that may bind one of these."""
TOP_FILES = 10
"""The number of files that a message names."""

MOST_PARAMETERS = 8
AS_OTHERS_CALL_THEM = {
    "export/torch/layers.py: convolution",  # the operator of ONNX has these attributes
}
"""Functions that may have more parameters."""


def bound_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id.strip("_").lower()
        elif isinstance(node, ast.arg):
            yield node.arg.strip("_").lower()


@pytest.mark.parametrize("files", [SOURCES, PROGRAMS], ids=["package", "tests and benchmarks"])
def test_names_are_nouns_of_the_field(files: Sequence[Path]) -> None:
    bindings, empty_names = 0, Counter[str]()
    for file in files:
        names = list(bound_names(file))
        bindings += len(names)
        empty_names[file.relative_to(PACKAGE).as_posix()] = sum(name in EMPTY_NAMES for name in names)
    rate = 1000 * empty_names.total() / bindings
    assert rate <= MOST_EMPTY_NAMES, f"{rate:.1f} of 1,000 names say little: {empty_names.most_common(TOP_FILES)}"


def test_no_function_outside_the_commands_has_many_parameters() -> None:
    """A command, or the function that one is made of, has a parameter for each option; others take objects."""
    crowded = dict[str, int]()
    for file in SOURCES:
        path = file.relative_to(PACKAGE).as_posix()
        if path.startswith(("app/api/", "app/cli/commands/")):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
                if count > MOST_PARAMETERS:
                    crowded[f"{path}: {node.name}"] = count
    assert crowded.keys() <= AS_OTHERS_CALL_THEM, {name: crowded[name] for name in crowded.keys() - AS_OTHERS_CALL_THEM}
