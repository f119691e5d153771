"""Fixtures of the tests of the application."""

import pytest
from explored import explored, limited  # noqa: F401 - fixtures

from bandlens.app.console import listen


@pytest.fixture(autouse=True)
def _notes_on_stderr() -> None:
    """Notes go to stderr, as at the root of the command line: tests of one group of commands do without the root."""
    listen()
