"""Shared values and helpers. Every other folder may import this one; it imports none of them."""

__version__ = "0.1.0"
