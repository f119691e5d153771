"""bandlens: which image frequencies a classifier lives on, and whether that explains how well it generalizes."""

from __future__ import annotations

import os
import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .analysis.results import Results

# ONNX Runtime, OpenVINO and NNCF would tell their makers of every use, and begin as they are imported. The first asks
# the environment; the others have a package for it, and do without where they do not find it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def open(path: str | PathLike[str]) -> Results:  # noqa: A001 - as in `bandlens.open("results.duckdb")`
    """Open a results database for reading: Polars frames and Altair charts. Several programs may read one at a time."""
    from .analysis.results import Results

    return Results(Path(path))
