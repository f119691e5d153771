"""The abilities of this machine: engines, GPUs, a Ray cluster, versions, free space."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core import __version__
from ...core.errors import EngineError, UnknownName, amount
from ...core.jobs import processors
from ...engine.backends.base import ENGINES
from ...engine.device.devices import Readiness, choose_engine, gpus, readiness
from ...engine.device.nvidia import Gpus, NoGpu, Problem
from ...engine.device.requirements import CHECKS, cupy_version, runs, two_onnxruntimes, usable
from ...export.model_files import home

PACKAGES = (
    "numpy", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf",
    "tensorrt-cu13", "cupy-cuda13x", "duckdb", "polars", "pyarrow",
)  # fmt: skip


def require_engine(engine: str) -> tuple[str, str]:
    """The subject and the finding on one engine; EngineError with the reason where it is not ready."""
    if engine not in (*CHECKS, "auto"):
        raise UnknownName("engine", engine, (*CHECKS, "auto"))
    state = engine_state(engine)
    if not state.ready:
        raise EngineError(f"engine {engine} is {_words(state)}")
    return f"engine {engine}", _words(state)


def inspect_machine() -> list[tuple[str, Any]]:
    """Subjects and findings, in the order that they are printed."""
    cards, two_packages, place = gpus(), two_onnxruntimes(), home()
    folder = next(folder for folder in (place, *place.parents) if folder.exists())
    return [
        ("bandlens", __version__),
        ("Python", platform.python_version()),
        ("processors", processors()),
        ("memory", f"{memory() / 2**30:.0f} GiB"),
        ("folder for weights and models", f"{place} ({amount(shutil.disk_usage(folder).free)} free)"),
        *gpu_rows(cards),
        *_engine_rows(cards),
        *((f"package {name}", _version(name)) for name in PACKAGES),
        *([("packages", f"PROBLEM: {two_packages}")] if two_packages else []),
    ]


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: a container may own less than the machine has."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int((root / "sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no control group here, or one whose limit reads `max`
        return machine


def gpu_rows(cards: Gpus) -> list[tuple[str, str]]:
    """A row for each GPU, or one that says why there is none to use."""
    if isinstance(cards, Problem):
        return [("GPU", f"PROBLEM: {cards.message}")]
    if isinstance(cards, NoGpu):
        return [("GPU", cards.reason)]
    return [
        (
            f"GPU {number}",
            f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, compute capability {gpu.capability}, driver {gpu.driver}",
        )
        for number, gpu in enumerate(cards)
    ]


def _engine_rows(cards: Gpus) -> list[tuple[str, str]]:
    """A row for each engine and array module; what is wrong with the GPU is not repeated in them."""
    rows = [(f"engine {name}", _words(engine_state(name)) + _precisions(name, cards)) for name in CHECKS]
    rows.append(("engine auto", _words(engine_state("auto"))))
    rows += [("array module numpy", "ready"), ("array module cupy", _words(_check(lambda: cupy_version(cards))))]
    try:
        usable(cards)
    except EngineError as error:
        fault = "the GPU cannot be used, see above" if isinstance(cards, Problem) else "it needs an NVIDIA GPU"
        return [(subject, line.replace(str(error), fault)) for subject, line in rows]
    return rows


def engine_state(engine: str) -> Readiness:
    """The readiness of an engine here; for `auto`, of the engine that it stands for, with the reason."""
    if engine != "auto":
        return readiness(engine)

    def choose() -> str:
        choice = choose_engine()
        return f"{choice.engine} ({choice.why})"

    return _check(choose)


def _check(check: Callable[[], str]) -> Readiness:
    try:
        return Readiness(True, check())
    except EngineError as error:
        return Readiness(False, str(error))


def _precisions(engine: str, cards: Gpus) -> str:
    """The precisions that a ready engine runs here."""
    if not engine_state(engine).ready:
        return ""
    precisions = list(ENGINES[engine].precisions)
    if ENGINES[engine].arrays == "cupy" and isinstance(cards, tuple):
        precisions = [precision for precision in precisions if runs(cards[0], precision)]
    return f"; {', '.join(precisions)}"


def _words(state: Readiness) -> str:
    return f"{'ready' if state.ready else 'not ready'}: {state.line}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
