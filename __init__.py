"""bandlens: which image frequencies a classifier lives on, and whether that explains how well it generalizes."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis.results import Results

__version__ = "0.1.0"

# Both would tell their makers of every use, and ONNX Runtime looks before anything of it can be called.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("NNCF_CI", "1")


def open(path: str | PathLike[str]) -> Results:  # noqa: A001 - as in `bandlens.open("results.duckdb")`
    """Open a results database for reading: Polars frames and Altair charts. Several programs may read one at a time."""
    from .analysis.results import Results

    return Results(Path(path))
