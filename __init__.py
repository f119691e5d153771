"""bandlens: which image frequencies a classifier lives on, and whether that explains how well it generalizes.

The names of the Python API stand in `__init__.pyi`, and each is imported on its first use: most lead to heavy
libraries, and a signal that comes before `signals.obey` ends Python its own way.
"""

from __future__ import annotations

import os
import sys

# ONNX Runtime, OpenVINO and NNCF would tell their makers of every use, and begin as they are imported. The first asks
# the environment; the others have a package for it, and do without where they do not find it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> object:
    from dataclasses import is_dataclass
    from importlib import import_module
    from inspect import isfunction

    from .core.arguments import checked

    module = _modules_by_name().get(name)
    if module is None:
        raise AttributeError(f"module 'bandlens' has no attribute '{name}'")
    value = getattr(import_module(module, __name__), name)
    if isfunction(value):
        value = checked(value)
        value.__module__ = __name__  # where pickle looks for it
    elif is_dataclass(value):
        checked(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules_by_name()})


def _modules_by_name() -> dict[str, str]:
    """Names of the Python API -> their modules, as `.app.api.results`."""
    import ast
    from pathlib import Path

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    return {alias.name: f".{statement.module}" for statement in imports for alias in statement.names}
