"""Fixtures of the tests of the application."""

from explored import explored, limited  # noqa: F401 - fixtures
