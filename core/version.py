"""The version of this package, for what writes it down without asking for the package itself."""

__version__ = "0.1.0"
