"""A unit test lies where its module lies: tests/unit/engine/backends/test_pgd.py tests engine/backends/pgd.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports_of_folders import PACKAGE

TESTS = PACKAGE / "tests"
WITHOUT_A_MODULE = {
    "analysis/database/test_label_schemes.py": "views of schema.sql",
    "analysis/database/test_views.py": "views of schema.sql",
    "app/study/test_names.py": "the names that belong to a study's version",
    "app/study/test_paper.py": "the study file that ships",
    "probes/test_golden.py": "numbers of all built-in probes",
    "test_generated_pages.py": "docs/generate.py",
    "test_imports.py": "imports of the whole package",
    "test_measure_names.py": "who names a measure",
    "test_mirror.py": "the folders of the tests",
    "test_sql_page.py": "docs/guide/sql.md",
}
"""Each unit test of something other than one module, and what it tests instead."""


def unit_tests() -> list[str]:
    return sorted(file.relative_to(TESTS / "unit").as_posix() for file in (TESTS / "unit").rglob("test_*.py"))


@pytest.mark.parametrize("file", unit_tests())
def test_a_unit_test_has_its_module_or_is_listed(file: str) -> None:
    path = Path(file)
    module = PACKAGE / path.parent / path.name.removeprefix("test_")
    assert module.is_file() != (file in WITHOUT_A_MODULE), f"{file} has no module, or is listed and has one"


def test_what_is_listed_is_there() -> None:
    assert set(WITHOUT_A_MODULE) <= set(unit_tests())


def test_every_test_lies_in_a_folder_that_make_runs() -> None:
    folders = {file.relative_to(TESTS).parts[0] for file in TESTS.rglob("test_*.py")}
    jobs = next(line for line in (PACKAGE / "Makefile").read_text().splitlines() if line.startswith("JOBS ?= "))
    assert folders - {"unit"} <= set(jobs.removeprefix("JOBS ?= ").split())
