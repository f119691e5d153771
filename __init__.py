"""bandlens: which image frequencies a classifier lives on, and whether that explains how well it generalizes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import export as _folder
from .errors import BandlensError as BandlensError
from .errors import CheckpointError as CheckpointError
from .errors import DeviceError as DeviceError
from .errors import EngineError as EngineError
from .errors import ExportError as ExportError
from .errors import ImageSetError as ImageSetError
from .errors import ProbeError as ProbeError
from .errors import ShardError as ShardError
from .errors import StoreError as StoreError
from .errors import UnknownName as UnknownName
from .errors import UsageError as UsageError
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .analysis.results import Results
    from .app.api import analyze as analyze
    from .app.api import compare as compare
    from .app.api import export as export
    from .app.api import measure as measure
    from .app.api import pack as pack
    from .app.api import plan as plan
    from .app.api import report as report
    from .app.api import run as run
    from .app.console import progress as progress
    from .app.study.file import Study as Study
    from .probes.images.options import Contents as Contents
    from .probes.images.options import Draw as Draw
    from .probes.images.options import How as How
    from .records import Crop as Crop

# ONNX Runtime, OpenVINO and NNCF would tell their makers of every use, and begin as they are imported. The first asks
# the environment; the others have a package for it, and do without where they do not find it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def open(path: str | PathLike[str]) -> Results:  # noqa: A001 - as in `bandlens.open("results.duckdb")`
    """Open a results database for reading: Polars frames and Altair charts. Several programs may read one at a time."""
    from .analysis.results import Results

    return Results(Path(path))


_LATER = {
    "Study": ".app.study.file",
    "Crop": ".records",
    "progress": ".app.console",
    **dict.fromkeys(("Contents", "Draw", "How"), ".probes.images.options"),
    **dict.fromkeys(("analyze", "compare", "measure", "pack", "plan", "report", "run"), ".app.api"),
}
"""Name -> its module, which loads heavy libraries, and so on use."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'bandlens' has no attribute '{name}'")
    return getattr(import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])


class _Export(ModuleType):
    """The folder export/, which can be called: whoever imports a module of it sets `bandlens.export` to the folder."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from .app.api import export

        return export(*arguments, **options)


_folder.__class__ = _Export
