"""The NVIDIA GPUs of this machine: whether there are any, whether CUDA can use them, and if not, why and what to do.

The operating system is asked through files that need no CUDA library, and then the driver. Where the driver fails, the
files decide what that means: a problem if they show a GPU, and an ordinary machine without one if they do not.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import EngineError
from .driver import NEEDED_DRIVER, Gpu, ask_driver


@dataclass(frozen=True, slots=True)
class Problem:
    """A GPU is here and cannot be used."""

    message: str
    """One line: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class NoGpu:
    """No GPU is here, or those that are have been hidden on purpose: nothing to mend."""

    reason: str


Gpus = tuple[Gpu, ...] | Problem | NoGpu


@dataclass(frozen=True, slots=True)
class Traces:
    """The traces of NVIDIA GPUs that the operating system shows."""

    driver: str
    """Version of the loaded kernel module, or empty. A container sees the module of its host."""
    names: tuple[str, ...]
    """Names of the GPUs that the kernel module drives."""
    nodes: bool
    """Whether there are device files of GPUs, which a container has only if it was given the GPUs."""
    wsl: bool
    """Whether this is Linux on Windows with the libraries of an NVIDIA driver."""
    cards: int
    """GPUs on the PCI bus, with a driver or without."""

    @property
    def present(self) -> bool:
        return bool(self.driver or self.names or self.nodes or self.wsl or self.cards)

    def __str__(self) -> str:
        counted = Counter(self.names or ["the NVIDIA GPU"])
        return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counted.items())


def find_gpus(
    root: Path = Path("/"), library: str = "libcuda.so.1", environment: Mapping[str, str] = os.environ
) -> Gpus:
    """The GPUs in CUDA's order, of which the first can be used; or what is wrong with one; or why there is none.

    Args:
        root: the folder of proc, sys, dev and usr.
        library: the driver's library, by name or path. It stays loaded.
        environment: CUDA_VISIBLE_DEVICES is read from it here, and by the driver from the process's own.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return NoGpu(f'CUDA_VISIBLE_DEVICES="{visible}" hides every NVIDIA GPU')
    traces = find_traces(root)
    try:
        return ask_driver(_load(library, traces), traces.driver)
    except EngineError as error:
        if not traces.present:
            return NoGpu("no NVIDIA GPU here")
        limited = "" if visible is None else f' (CUDA_VISIBLE_DEVICES="{visible}")'
        return Problem(f"{traces} cannot be used{limited}: {error}")


def find_traces(root: Path = Path("/")) -> Traces:
    """Read the traces in files under `root`; one that cannot be read shows nothing."""
    nvidia = root / "proc/driver/nvidia"
    version = re.search(r"Kernel Module\b.*?\s(\d+(\.\d+)+)", _read(nvidia / "version"))
    models = [re.search(r"^Model:\s*(\S.*)$", _read(file), re.M) for file in nvidia.glob("gpus/*/information")]
    wsl_libraries = (root / "usr/lib/wsl/lib").glob("libcuda.so*")  # a GPU of another maker has the folder without it
    devices = [(_read(folder / "vendor"), _read(folder / "class")) for folder in root.glob("sys/bus/pci/devices/*")]
    return Traces(
        driver=version[1] if version else "",
        names=tuple(sorted(model[1].strip() for model in models if model)),
        nodes=any((root / "dev").glob("nvidia[0-9]*")),
        wsl=(root / "dev/dxg").exists() and any(wsl_libraries),
        cards=sum(vendor == "0x10de" and kind.startswith("0x03") for vendor, kind in devices),
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _load(library: str, traces: Traces) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        advice = [
            (traces.wsl, "add /usr/lib/wsl/lib to LD_LIBRARY_PATH"),
            (
                traces.nodes,
                "reinstall the driver; a container gets its library with NVIDIA_DRIVER_CAPABILITIES=compute",
            ),
            (bool(traces.driver), "start the container with --gpus all; outside of one, reinstall the driver"),
            (True, f"the GPU has no driver here; install NVIDIA's, {NEEDED_DRIVER} or newer, on the host"),
        ]
        raise EngineError(f"{error}; {next(text for applies, text in advice if applies)}") from error
