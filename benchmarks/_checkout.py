"""A program that imports this first takes the checkout around it for the package `bandlens`, in whatever folder.

So a program runs where nothing of bandlens is installed, and measures what lies beside it where another version is.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if "bandlens" not in sys.modules:
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "bandlens", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["bandlens"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bandlens"])
