"""A unit test lies where its module lies, and neither starts a process nor waits.

tests/unit/engine/backends/test_pgd.py tests engine/backends/pgd.py.
"""

from __future__ import annotations

import ast
from pathlib import Path

from imports_of_folders import PACKAGE

TESTS = PACKAGE / "tests"
WITHOUT_A_MODULE = {
    "analysis/database/test_label_schemes.py": "views of schema.sql",
    "analysis/database/test_views.py": "views of schema.sql",
    "analysis/published/test_names.py": "names of models",
    "analysis/published/test_papers.py": "numbers that papers printed",
    "analysis/metrics/test_labels.py": "accuracy of each label",
    "analysis/metrics/test_ranks.py": "reciprocal ranks",
    "app/cli/commands/test_benchmarks.py": "`bandlens benchmarks`",
    "app/cli/commands/test_compare.py": "`bandlens compare`",
    "app/cli/commands/test_correlate.py": "`bandlens correlate`",
    "app/cli/commands/test_sql.py": "`bandlens sql`",
    "app/test_api.py": "the folder app/api",
    "probes/images/test_attributes.py": "attributes of images",
    "probes/images/test_samples.py": "samples of more than 8 bits",
    "probes/test_golden.py": "numbers of all built-in probes",
    "test_generated_pages.py": "docs/generate.py",
    "test_imports.py": "imports, joins and names of measures in the whole package",
    "test_mirror.py": "the folders of the tests",
    "test_results_page.py": "docs/guide/results.md",
}
"""Each unit test of something other than one module, and what it tests instead."""

FORBIDDEN = {"multiprocessing", "os.fork", "os.kill", "ray", "selenium", "signal", "subprocess", "time.sleep"} | {
    *("made_up_results.python", "small.bandlens"),  # commands of a process
    *("browser", "pty", "ray_clusters", "waiting"),  # helpers for other folders
}
"""Modules, and names of modules, that tests/unit does without: they start processes, signal to them, or wait."""


def unit_tests() -> list[str]:
    return sorted(file.relative_to(TESTS / "unit").as_posix() for file in (TESTS / "unit").rglob("test_*.py"))


def test_a_unit_test_has_its_module_or_is_listed() -> None:
    for file in unit_tests():
        path = Path(file)
        module = PACKAGE / path.parent / path.name.removeprefix("test_")
        assert module.is_file() != (file in WITHOUT_A_MODULE), f"{file} has no module, or is listed and has one"


def test_what_is_listed_is_there() -> None:
    assert set(WITHOUT_A_MODULE) <= set(unit_tests())


def test_every_test_lies_in_a_folder_that_make_runs() -> None:
    folders = {file.relative_to(TESTS).parts[0] for file in TESTS.rglob("test_*.py")}
    jobs = next(line for line in (PACKAGE / "Makefile").read_text().splitlines() if line.startswith("FOLDERS := "))
    assert folders - {"unit"} == set(jobs.removeprefix("FOLDERS := ").split())


def names_used(file: Path) -> set[str]:
    """Modules that a file imports, and names of modules as `module.name`."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in (alias.name, alias.name.partition(".")[0])}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                node.module,
                node.module.partition(".")[0],
                *(f"{node.module}.{alias.name}" for alias in node.names),
            }
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
    return names


def test_unit_tests_start_no_process_and_do_not_wait() -> None:
    uses = {
        file.relative_to(TESTS / "unit").as_posix(): names_used(file) & FORBIDDEN
        for file in (TESTS / "unit").rglob("*.py")
    }
    assert {file: names for file, names in uses.items() if names} == {}
