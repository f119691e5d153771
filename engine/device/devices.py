"""The engines that this machine can run, and the one that `auto` stands for. A GPU never leads to the CPU unasked."""

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
"""Engines of a GPU, of which `auto` takes the first that is ready."""
CPU_ENGINE = "onnxruntime"
CPU_ADVICE = f'; or ask for the CPU with engine = "{CPU_ENGINE}"'


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether an engine can be used."""

    ready: bool
    line: str
    """The engine's version if it can be used; if not, its fault, and the advice."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that `auto` stands for, and why in one line."""

    engine: str
    why: str


@cache
def gpus() -> Gpus:
    """The GPUs of this machine, looked for once in a process, which is its first call of CUDA."""
    machine = find_gpus()
    if isinstance(machine, tuple):
        hide_lost_memory()
    return machine


@cache
def readiness(engine: str) -> Readiness:
    """Whether an engine of `engine.backends.base.ENGINES` can be used on this machine, checked once in a process."""
    try:
        return Readiness(True, CHECKS[engine](gpus()))
    except EngineError as error:
        return Readiness(False, str(error))


def choose_engine() -> EngineChoice:
    """The engine that `auto` stands for on this machine.

    TensorRT, else ONNX Runtime with CUDA, else torch with CUDA, where there is a GPU; ONNX Runtime on the CPU where
    there is none.
    EngineError where there is a GPU that cannot be used, with what to do about it.
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
        engines_of_line: dict[str, list[str]] = {}  # a lack of several is said once
        for engine in GPU_ENGINES:
            engines_of_line.setdefault(readiness(engine).line, []).append(engine)
        lacks = ", ".join(f"{' and '.join(names)} ({line})" for line, names in engines_of_line.items())
        raise EngineError(f"no engine for {name} is ready: {lacks}{CPU_ADVICE}")
    note = "" if engine == GPU_ENGINES[0] else f"; {GPU_ENGINES[0]} is not ready, `bandlens doctor` says why"
    return EngineChoice(engine, f"{readiness(engine).line} on {name}{note}")


def processor_name(root: Path = Path("/")) -> str:
    """The processor's name in Linux, such as `AMD EPYC 9354`; elsewhere the one that Python gives, if only its kind."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
