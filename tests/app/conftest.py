"""Fixtures of the tests of the application."""

from explored import explored  # noqa: F401 - a fixture
