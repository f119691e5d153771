"""`bandlens doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from typing import Any

from ... import __version__
from ...errors import BandlensError
from ..console import Json, print_rows

PACKAGES = (
    "numpy", "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13", "cupy-cuda13x",
    "duckdb", "polars", "pyarrow",
)  # fmt: skip


def doctor(as_json: Json = False) -> None:
    """Say what this machine can run: engines, devices, versions, free space.

    Example: bandlens doctor --json
    """
    print_rows([{"what": what, "found": found} for what, found in findings()], as_json)


def findings() -> list[tuple[str, Any]]:
    """(what, found) pairs, in the order that they are printed."""
    from ...export.files import home
    from ...probes.arrays import processors

    place = home()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    rows: list[tuple[str, Any]] = [
        ("bandlens", __version__),
        ("Python", platform.python_version()),
        ("processors", processors()),
        ("folder for weights and models", f"{place} ({shutil.disk_usage(existing).free / 1e9:.0f} GB free)"),
        ("engine onnxruntime on the CPU", _onnxruntime()),
        ("array module numpy", "ready"),
        ("array module cupy", _cupy()),
    ]
    return rows + [(f"package {name}", _version(name)) for name in PACKAGES]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _onnxruntime() -> str:
    try:
        import onnxruntime
    except ImportError:
        return "not installed: pip install 'bandlens[cpu]'"
    return f"ready ({', '.join(onnxruntime.get_available_providers())})"


def _cupy() -> str:
    from ...probes.arrays import array_module

    try:
        array_module("cupy")
    except BandlensError as error:
        return str(error)
    return "ready"
