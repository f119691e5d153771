"""bandlens: which image frequencies a classifier lives on, and whether that explains how well it generalizes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType

from . import export as _folder

# A signal that comes before `signals.obey` ends Python its own way: what is imported until then is little. So typing,
# whose constant type checkers know by its name, is not.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .app.api.images import add_attributes as add_attributes
    from .app.api.images import add_images as add_images
    from .app.api.images import check_images as check_images
    from .app.api.images import draw_images as draw_images
    from .app.api.images import list_benchmarks as list_benchmarks
    from .app.api.images import list_conditions as list_conditions
    from .app.api.images import pack as pack
    from .app.api.images import pack_benchmark as pack_benchmark
    from .app.api.images import pack_frequency_conflict as pack_frequency_conflict
    from .app.api.images import preview as preview
    from .app.api.images import remove_images as remove_images
    from .app.api.images import spectrum as spectrum
    from .app.api.models import describe_checkpoint as describe_checkpoint
    from .app.api.models import describe_model as describe_model
    from .app.api.models import doctor as doctor
    from .app.api.models import export as export
    from .app.api.models import fetch_weights as fetch_weights
    from .app.api.models import list_checkpoints as list_checkpoints
    from .app.api.models import name_classes as name_classes
    from .app.api.models import profile as profile
    from .app.api.models import sensitivity as sensitivity
    from .app.api.published import import_published as import_published
    from .app.api.published import published_table as published_table
    from .app.api.published import published_values as published_values
    from .app.api.published import relate_published as relate_published
    from .app.api.published import show_published as show_published
    from .app.api.results import analyze as analyze
    from .app.api.results import cite as cite
    from .app.api.results import compare as compare
    from .app.api.results import consistency as consistency
    from .app.api.results import correlate as correlate
    from .app.api.results import delete_study as delete_study
    from .app.api.results import explore as explore
    from .app.api.results import list_measures as list_measures
    from .app.api.results import list_studies as list_studies
    from .app.api.results import measure as measure
    from .app.api.results import merge as merge
    from .app.api.results import open as open  # noqa: A004 - as in `bandlens.open("results.duckdb")`
    from .app.api.results import rename_study as rename_study
    from .app.api.results import report as report
    from .app.api.results import stored_study as stored_study
    from .app.api.studies import gate as gate
    from .app.api.studies import gate_precision as gate_precision
    from .app.api.studies import import_predictions as import_predictions
    from .app.api.studies import plan as plan
    from .app.api.studies import power as power
    from .app.api.studies import run as run
    from .app.api.studies import run_progress as run_progress
    from .app.api.studies import verify as verify
    from .app.api.studies import write_study as write_study
    from .app.console import progress as progress
    from .app.export import Backbone as Backbone
    from .app.export import Lowering as Lowering
    from .app.export import MultiLabel as MultiLabel
    from .app.export import lower as lower
    from .app.study.file import Study as Study
    from .core.errors import BandlensError as BandlensError
    from .core.errors import CheckpointError as CheckpointError
    from .core.errors import DeviceError as DeviceError
    from .core.errors import EngineError as EngineError
    from .core.errors import ExportError as ExportError
    from .core.errors import ImageSetError as ImageSetError
    from .core.errors import ProbeError as ProbeError
    from .core.errors import StoreError as StoreError
    from .core.errors import UnknownName as UnknownName
    from .core.errors import UsageError as UsageError
    from .core.records import Crop as Crop
    from .core.version import __version__ as __version__
    from .export.models import categorize_model as categorize_model
    from .export.weights.registry import Reading as Reading
    from .probes.benchmarks.check import Subset as Subset
    from .probes.benchmarks.layouts import Labels as Labels
    from .probes.images.options import Contents as Contents
    from .probes.images.options import Draw as Draw
    from .probes.images.options import How as How

# ONNX Runtime, OpenVINO and NNCF would tell their makers of every use, and begin as they are imported. The first asks
# the environment; the others have a package for it, and do without where they do not find it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


_LATER = {
    ".app.api.images": (
        "add_attributes add_images check_images draw_images list_benchmarks list_conditions pack pack_benchmark "
        "pack_frequency_conflict preview remove_images spectrum"
    ),
    ".app.api.models": (
        "describe_checkpoint describe_model doctor fetch_weights list_checkpoints name_classes profile sensitivity"
    ),
    ".app.api.published": "import_published published_table published_values relate_published show_published",
    ".app.api.results": (
        "analyze cite compare consistency correlate delete_study explore list_measures list_studies "
        "measure merge open rename_study report stored_study"
    ),
    ".app.api.studies": ("gate gate_precision import_predictions plan power run run_progress verify write_study"),
    ".app.console": "progress",
    ".app.export": "Backbone Lowering MultiLabel lower",
    ".core.errors": (
        "BandlensError CheckpointError DeviceError EngineError ExportError ImageSetError ProbeError "
        "StoreError UnknownName UsageError"
    ),
    ".export.models": "categorize_model",
    ".export.weights.registry": "Reading",
    ".app.study.file": "Study",
    ".probes.benchmarks.check": "Subset",
    ".probes.benchmarks.layouts": "Labels",
    ".probes.images.options": "Contents Draw How",
    ".core.records": "Crop",
    ".core.version": "__version__",
}
"""Names by their modules, which are imported on use: most load heavy libraries, or lead to some that do."""
_MODULE_OF = {name: module for module, names in _LATER.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bandlens' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


class _Export(ModuleType):
    """The folder export/, which can be called: whoever imports a module of it sets `bandlens.export` to the folder."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from .app.api.models import export

        return export(*arguments, **options)


_folder.__class__ = _Export
