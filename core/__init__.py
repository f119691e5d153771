"""The values and helpers that every room may use, and which know no room."""

__version__ = "0.1.0"
