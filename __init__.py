"""bandlens: which image frequencies a classifier lives on, and whether that explains how well it generalizes."""

__version__ = "0.1.0"
