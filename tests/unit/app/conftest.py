"""Fixtures of the tests of the application."""

from pathlib import Path

import pytest
from explored import explored, limited  # noqa: F401 - fixtures

from bandlens.app.cli.console import listen
from bandlens.app.study.resolve import Work
from bandlens.app.study.runner import run_study


@pytest.fixture(autouse=True)
def _notes_on_stderr() -> None:
    """Notes go to stderr, as at the root of the command line: tests of one group of commands do without the root."""
    listen()


@pytest.fixture(scope="module")
def reference(work: Work) -> Path:
    """The database of a module's study `work`, run in this process on ONNX Runtime."""
    database = work.study.folder / "reference.duckdb"
    assert run_study(work, database).failed == []
    return database
