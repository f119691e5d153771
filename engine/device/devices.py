"""The engines that this machine can run, and the one that `auto` stands for. A GPU never leads to the CPU unasked."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...core.errors import EngineError
from .nvidia import Gpus, NoGpu, Problem, find_gpus
from .requirements import CHECKS
from .streams import is_of_cupy

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


CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
"""Environment variable: the hardware queues of a card. By default streams share eight, and may wait for each other."""


@cache
def gpus() -> Gpus:
    """The GPUs of this machine, looked for once in a process, which is its first call of CUDA."""
    os.environ.setdefault(CONNECTIONS, "32")  # CUDA reads it as it starts
    machine = find_gpus()
    if isinstance(machine, tuple):
        hide_lost_memory()
    return machine


def hide_lost_memory() -> None:
    """Show no traceback of CuPy's destructors: on a lost GPU each event and block of memory fails to be freed.

    These errors only follow from the one that ends the run, which is told in a line.
    """
    hook = sys.unraisablehook

    def show(error: sys.UnraisableHookArgs) -> None:
        if error.exc_value is None or not is_of_cupy(error.exc_value):
            hook(error)

    sys.unraisablehook = show


@cache
def readiness(engine: str) -> Readiness:
    """Whether an engine of `engine.backends.base.ENGINES` can be used on this machine, checked once in a process."""
    return readiness_with(engine, gpus())


def readiness_with(engine: str, machine: Gpus) -> Readiness:
    """Whether an engine can be used with these GPUs and the packages that are installed."""
    try:
        return Readiness(True, CHECKS[engine](machine))
    except EngineError as error:
        return Readiness(False, str(error))


def choose_engine() -> EngineChoice:
    """The engine that `auto` stands for on this machine.

    TensorRT, else ONNX Runtime with CUDA, else torch with CUDA, where there is a GPU; ONNX Runtime on the CPU where
    there is none.
    EngineError where there is a GPU that cannot be used, with what to do about it.
    """
    return choose(gpus(), readiness)


def choose(machine: Gpus, state: Callable[[str], Readiness]) -> EngineChoice:
    """`choose_engine` from what is known of a machine: its GPUs, and whether each engine is ready."""
    if isinstance(machine, Problem):
        raise EngineError(f"{machine.message}{CPU_ADVICE}")
    if isinstance(machine, NoGpu):
        if not state(CPU_ENGINE).ready:
            raise EngineError(f"{machine.reason}, and for the CPU: {state(CPU_ENGINE).line}")
        return EngineChoice(CPU_ENGINE, machine.reason)
    name = machine[0].name
    engine = next((engine for engine in GPU_ENGINES if state(engine).ready), None)
    if engine is None:
        raise EngineError(f"no engine for {name} is ready: {_wrong_with(GPU_ENGINES, state)}{CPU_ADVICE}")
    note = "" if engine == GPU_ENGINES[0] else f"; {GPU_ENGINES[0]} is not ready, `bandlens doctor` says why"
    return EngineChoice(engine, f"{state(engine).line} on {name}{note}")


def _wrong_with(engines: Sequence[str], state: Callable[[str], Readiness]) -> str:
    """Say what each of the engines lacks; a lack of several is said once."""
    engines_of_line: dict[str, list[str]] = {}
    for engine in engines:
        engines_of_line.setdefault(state(engine).line, []).append(engine)
    return ", ".join(f"{' and '.join(names)} ({line})" for line, names in engines_of_line.items())


def processor_name(root: Path = Path("/")) -> str:
    """The processor's name in Linux, such as `AMD EPYC 9354`; elsewhere the one that Python gives, if only its kind."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
