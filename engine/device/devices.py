"""Determine which engines can run on this machine, and which one `auto` selects.

If the machine has a GPU that cannot be used, `auto` raises an error instead of silently using the CPU.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...core.errors import EngineError
from .gpu_errors import hide_lost_memory
from .nvidia import Gpus, NoGpu, Problem, find_gpus
from .requirements import CHECKS

GPU_ENGINES = ("tensorrt", "onnxruntime-cuda", "torch-cuda")
"""Engines on a GPU. `auto` selects the first one that is ready."""
CPU_ENGINE = "onnxruntime"
"""Engine that `auto` selects on a machine without a GPU."""
CPU_ADVICE = f'; or ask for the CPU with engine = "{CPU_ENGINE}"'


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether an engine can be used on this machine."""

    ready: bool
    line: str
    """The version of the engine if it can be used. Otherwise the reason, and what to do about it."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that `auto` selects, and the reason in one line."""

    engine: str
    why: str


@cache
def gpus() -> Gpus:
    """Return the GPUs of this machine. They are detected once per process, by its first call to CUDA."""
    machine = find_gpus()
    if isinstance(machine, tuple):
        hide_lost_memory()
    return machine


@cache
def readiness(engine: str) -> Readiness:
    """Return whether an engine of `ENGINES` can be used on this machine. Checked once per process."""
    try:
        return Readiness(True, CHECKS[engine](gpus()))
    except EngineError as error:
        return Readiness(False, str(error))


def choose_engine() -> EngineChoice:
    """Select the engine for `auto` on this machine.

    With a GPU this is TensorRT, or else ONNX Runtime with CUDA, or else torch with CUDA. Without a GPU it is ONNX
    Runtime on the CPU.

    Raises:
        EngineError: If there is a GPU that cannot be used. The message says what to do about it.
    """
    machine = gpus()
    if isinstance(machine, Problem):
        raise EngineError(f"{machine.message}{CPU_ADVICE}")
    if isinstance(machine, NoGpu):
        if not readiness(CPU_ENGINE).ready:
            raise EngineError(f"{machine.reason}, and for the CPU: {readiness(CPU_ENGINE).line}")
        return EngineChoice(CPU_ENGINE, machine.reason)
    name = machine[0].name
    engine = next((engine for engine in GPU_ENGINES if readiness(engine).ready), None)
    if engine is None:
        engines_of_line: dict[str, list[str]] = {}  # engines with the same reason are listed together
        for engine in GPU_ENGINES:
            engines_of_line.setdefault(readiness(engine).line, []).append(engine)
        lacks = ", ".join(f"{' and '.join(names)} ({line})" for line, names in engines_of_line.items())
        raise EngineError(f"no engine for {name} is ready: {lacks}{CPU_ADVICE}")
    note = "" if engine == GPU_ENGINES[0] else f"; {GPU_ENGINES[0]} is not ready, `bandlens doctor` says why"
    return EngineChoice(engine, f"{readiness(engine).line} on {name}{note}")


def processor_name(root: Path = Path("/")) -> str:
    """Return the name of the processor, such as `AMD EPYC 9354`.

    It is read from /proc/cpuinfo on Linux. Elsewhere it is whatever the `platform` module reports, which may be only
    the architecture.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
