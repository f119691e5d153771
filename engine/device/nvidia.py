"""The NVIDIA GPUs of this machine: whether there are any, whether CUDA can use them, and if not, why and what to do.

The operating system is asked through files, and then the driver through ctypes, so that no CUDA package has to be
installed or to work for it. Where the driver fails, the files decide what that means: a problem if they show a GPU, and
an ordinary machine without one if they do not. Once a GPU computes, nvidia-ml-py reads its clocks and temperature.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from ctypes import byref
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...core.errors import EngineError

CUDA_VERSION = 13000
"""The version that the GPU packages are built for, 13.0, as the driver counts."""
NEEDED_DRIVER = 580
OLDEST_CAPABILITY = (7, 5)
"""Turing: CUDA 13 makes no code for what is older."""
CAPABILITY_ATTRIBUTES = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
NO_DEVICE = 100

ADVICE: Mapping[int, str] = {
    34: "this libcuda.so.1 is the CUDA toolkit's stub; take its folder out of LD_LIBRARY_PATH",
    NO_DEVICE: "the driver offers this process no GPU; start a container with --gpus all, and see what `nvidia-smi -L` "
    "and CUDA_VISIBLE_DEVICES say",
    304: "the operating system refused a call; this user must be able to read and write /dev/nvidia*, and a container "
    "that has lost them must be started again",
    802: "the switch between the GPUs is not set up; start nvidia-fabricmanager of the driver's own version",
    803: "libcuda.so.1 and the kernel module are of different driver versions, as after an update; restart the "
    "machine, or the container if only that is older",
    804: f"the image brings a libcuda.so.1 that the host's driver cannot work with; install driver {NEEDED_DRIVER} or "
    "newer on the host",
    999: "the driver is in a bad state, often after standby; run `sudo modprobe -r nvidia_uvm` and `sudo modprobe "
    "nvidia_uvm`, or restart the machine",
}
"""CUDA's error codes that have a usual cause, and what to do about each."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that CUDA offers."""

    name: str
    memory_bytes: int
    capability: str
    """Compute capability, such as 9.0."""
    driver: str
    """The driver's version, or the newest CUDA version that it knows where no file says its own."""

    @property
    def compute(self) -> tuple[int, int]:
        """The compute capability as numbers."""
        major, minor = self.capability.split(".")
        return int(major), int(minor)


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
        counts = Counter(self.names or ["the NVIDIA GPU"])
        return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())


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
        return _ask_driver(_load(library, traces), traces.driver)
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


def _ask_driver(cuda: ctypes.CDLL, driver: str) -> tuple[Gpu, ...]:
    """The GPUs by the driver's library, or EngineError; `driver` is its version, or empty where it is not known."""
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(cuda, "cuDriverGetVersion", byref(version))
    newest = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if version.value < CUDA_VERSION:
        name = f"driver {driver}" if driver else "the driver"
        raise EngineError(f"{name} knows {newest} at most, not CUDA 13; install driver {NEEDED_DRIVER} or newer")
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDeviceGetCount", byref(count))
    if not count.value:
        raise EngineError(_explained(cuda, "cuDeviceGetCount", NO_DEVICE))
    first, *rest = (_describe(cuda, ordinal, driver or newest) for ordinal in range(count.value))
    if first.compute < OLDEST_CAPABILITY:
        raise EngineError(
            f"{first.name} has compute capability {first.capability}, and CUDA 13 needs 7.5 or higher; where "
            "there is a newer GPU too, name that one alone in CUDA_VISIBLE_DEVICES"
        )
    return first, *rest


def _describe(cuda: ctypes.CDLL, ordinal: int, driver: str) -> Gpu:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(cuda, "cuDeviceGetName", name, len(name), ordinal)
    _call(cuda, "cuDeviceTotalMem_v2", byref(memory), ordinal)
    capability = [ctypes.c_int() for _ in CAPABILITY_ATTRIBUTES]
    for value, attribute in zip(capability, CAPABILITY_ATTRIBUTES, strict=True):
        _call(cuda, "cuDeviceGetAttribute", byref(value), attribute, ordinal)
    numbers = ".".join(str(value.value) for value in capability)
    return Gpu(name.value.decode(errors="replace"), memory.value, numbers, driver)


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = getattr(cuda, function)(*arguments)
    if code:
        raise EngineError(_explained(cuda, function, code))


def _explained(cuda: ctypes.CDLL, function: str, code: int) -> str:
    """The failed call, CUDA's name of the error, and what to do."""
    name = ctypes.c_char_p()
    cuda.cuGetErrorName(code, byref(name))
    error = (name.value or b"unnamed error").decode()
    return f"{function} gives {error} ({code}): {ADVICE.get(code, 'see whether `nvidia-smi` works on this machine')}"


# The state of a card, by NVML: clocks, power, temperature, and what holds the clocks down

POWER_CAP = "software power cap"
"""The reason that is usual for a card at full load."""
BUS_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class CardState:
    """The state of a card at one moment; None where the card does not say."""

    sm_mhz: int | None
    largest_sm_mhz: int | None
    memory_mhz: int | None
    watts: float | None
    celsius: int | None
    throttled: tuple[str, ...] | None
    """The reasons that hold the clocks down; empty where none does."""
    mig: bool | None
    """Whether the card is split into instances (MIG), each of which has a part of its rate."""


def card_state(cuda: str = "libcuda.so.1") -> CardState | None:
    """The state of the first card that CUDA offers this process; None where a library, or the card, is missing.

    The card is found by its place on the PCI bus, since NVML counts cards that CUDA_VISIBLE_DEVICES hides.

    Args:
        cuda: the driver's library, by name or path. NVML's library is the one that the loader finds by its usual name.
    """
    handle = _open_nvml(cuda)
    return None if handle is None else _state(handle)


def throttling(card: str | None) -> str | None:
    """The warning where heat or hardware slows down a card, a CardState as JSON; None where its power cap does."""
    state = {} if card is None else json.loads(card)
    reasons = [reason for reason in state.get("throttled") or () if reason != POWER_CAP]
    if not reasons:
        return None
    return (
        f"the GPU is slowed down by {' and '.join(reasons)}, so rates of this run are too low; see "
        "`nvidia-smi -q -d PERFORMANCE`, and to its cooling and power supply"
    )


@cache
def _open_nvml(cuda: str) -> object | None:
    """NVML's handle of the first card that CUDA offers. NVML is started once, and answers until the process ends."""
    try:
        import pynvml

        driver = ctypes.CDLL(cuda)
    except (ImportError, OSError):
        return None
    place = ctypes.create_string_buffer(BUS_ID_BYTES)
    if driver.cuInit(0) or driver.cuDeviceGetPCIBusId(place, BUS_ID_BYTES, 0):
        return None
    try:
        pynvml.nvmlInit()
        handle: object = pynvml.nvmlDeviceGetHandleByPciBusId(place.value)
    except pynvml.NVMLError:
        return None
    return handle


def _state(handle: object) -> CardState:
    import pynvml as nvml

    def ask(function: Callable[..., Any], *arguments: int) -> Any:
        """Return None where this card or its driver does not support the function."""
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    slowdowns = {  # Idling, and clocks that somebody has set, are no reasons to warn.
        nvml.nvmlClocksEventReasonSwPowerCap: POWER_CAP,
        nvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
        nvml.nvmlClocksEventReasonSwThermalSlowdown: "software thermal slowdown",
        nvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware thermal slowdown",
        nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hardware power brake",
    }
    milliwatts = ask(nvml.nvmlDeviceGetPowerUsage)
    reasons = ask(nvml.nvmlDeviceGetCurrentClocksEventReasons)
    mig_mode = ask(nvml.nvmlDeviceGetMigMode)
    return CardState(
        sm_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        largest_sm_mhz=ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        memory_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        watts=None if milliwatts is None else milliwatts / 1000,
        celsius=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        throttled=None if reasons is None else tuple(name for bit, name in slowdowns.items() if reasons & bit),
        mig=None if mig_mode is None else bool(mig_mode[0]),
    )
