"""Detect the NVIDIA GPUs of this machine: whether there are any, whether CUDA can use them, and if not, why.

Files of the operating system are read first, then the driver is called through ctypes. This needs no CUDA package. If
the driver fails, the files decide what that means: a problem if they show a GPU, and an ordinary machine without a GPU
otherwise. While a GPU computes, its clocks and temperature are read with nvidia-ml-py.
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
"""CUDA version that the GPU packages are built for, 13.0, in the driver's numbering."""
NEEDED_DRIVER = 580
"""Oldest driver version that supports CUDA 13."""
OLDEST_CAPABILITY = (7, 5)
"""Oldest supported compute capability (Turing). CUDA 13 generates no code for older ones."""
CAPABILITY_ATTRIBUTES = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""

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
"""What to do about each CUDA error code that has a typical cause."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that CUDA can use."""

    name: str
    memory_bytes: int
    capability: str
    """Compute capability, for example 9.0."""
    driver: str
    """Version of the driver. If no file states it, the newest CUDA version that the driver supports."""

    @property
    def compute(self) -> tuple[int, int]:
        """The compute capability as two integers."""
        major, minor = self.capability.split(".")
        return int(major), int(minor)


@dataclass(frozen=True, slots=True)
class Problem:
    """There is a GPU, but it cannot be used."""

    message: str
    """One line: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class NoGpu:
    """There is no GPU, or all GPUs have been hidden on purpose. Nothing needs to be fixed."""

    reason: str


Gpus = tuple[Gpu, ...] | Problem | NoGpu


@dataclass(frozen=True, slots=True)
class Traces:
    """Signs of NVIDIA GPUs that the operating system shows."""

    driver: str
    """Version of the loaded kernel module, or empty. A container sees the module of its host."""
    names: tuple[str, ...]
    """Names of the GPUs that the kernel module controls."""
    nodes: bool
    """Whether there are device files of GPUs. A container has them only if it was given access to the GPUs."""
    wsl: bool
    """Whether this is the Windows Subsystem for Linux with the libraries of an NVIDIA driver."""
    cards: int
    """Number of NVIDIA GPUs on the PCI bus, with or without a driver."""

    @property
    def present(self) -> bool:
        """Whether any of the signs shows a GPU."""
        return bool(self.driver or self.names or self.nodes or self.wsl or self.cards)

    def __str__(self) -> str:
        counts = Counter(self.names or ["the NVIDIA GPU"])
        return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())


def find_gpus(
    root: Path = Path("/"), library: str = "libcuda.so.1", environment: Mapping[str, str] = os.environ
) -> Gpus:
    """Detect the GPUs. Return them in CUDA's order, or the problem with them, or the reason why there are none.

    Only the first GPU is checked for a supported compute capability.

    Args:
        root: Folder that contains proc, sys, dev and usr.
        library: The driver's library, by name or path. It stays loaded.
        environment: Checked here for CUDA_VISIBLE_DEVICES. The driver reads the variable from the environment of the
            process.
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
    """Read the signs of GPUs from files under `root`. Files that cannot be read are ignored."""
    nvidia = root / "proc/driver/nvidia"
    version = re.search(r"Kernel Module\b.*?\s(\d+(\.\d+)+)", _read(nvidia / "version"))
    models = [re.search(r"^Model:\s*(\S.*)$", _read(file), re.M) for file in nvidia.glob("gpus/*/information")]
    # With a GPU of another vendor the folder exists, but not these files.
    wsl_libraries = (root / "usr/lib/wsl/lib").glob("libcuda.so*")
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
    """Load the driver's library. Raises EngineError with advice if that fails."""
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
    """Query the driver for the GPUs. Raises EngineError if they cannot be used.

    `driver` is the version of the driver, or empty if it is not known.
    """
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
    """Query the driver for one GPU."""
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(cuda, "cuDeviceGetName", name, len(name), ordinal)
    _call(cuda, "cuDeviceTotalMem_v2", byref(memory), ordinal)
    capability = [ctypes.c_int() for _ in CAPABILITY_ATTRIBUTES]
    for value, attribute in zip(capability, CAPABILITY_ATTRIBUTES, strict=True):
        _call(cuda, "cuDeviceGetAttribute", byref(value), attribute, ordinal)
    numbers = ".".join(str(value.value) for value in capability)
    return Gpu(name.value.decode(errors="replace"), memory.value, numbers, driver)


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Call a function of the driver, and raise EngineError if it returns an error code."""
    code = getattr(cuda, function)(*arguments)
    if code:
        raise EngineError(_explained(cuda, function, code))


def _explained(cuda: ctypes.CDLL, function: str, code: int) -> str:
    """Describe a failed call: the function, CUDA's name of the error, and what to do."""
    name = ctypes.c_char_p()
    cuda.cuGetErrorName(code, byref(name))
    error = (name.value or b"unnamed error").decode()
    return f"{function} gives {error} ({code}): {ADVICE.get(code, 'see whether `nvidia-smi` works on this machine')}"


# Query the state of a GPU with NVML: clocks, power, temperature, and the reasons for reduced clocks

POWER_CAP = "software power cap"
"""Reason for reduced clocks that is normal on a fully used GPU, so that no warning is needed."""
BUS_ID_BYTES = 32
"""Size of the buffer for a PCI bus ID."""


@dataclass(frozen=True, slots=True)
class CardState:
    """The state of a GPU at one moment. A value is None if the GPU does not report it."""

    sm_mhz: int | None
    largest_sm_mhz: int | None
    memory_mhz: int | None
    watts: float | None
    celsius: int | None
    throttled: tuple[str, ...] | None
    """Reasons for reduced clocks. Empty if the clocks are not reduced."""
    mig: bool | None
    """Whether the GPU is partitioned into MIG instances, each of which has only part of its throughput."""


def card_state(cuda: str = "libcuda.so.1") -> CardState | None:
    """Return the state of the first GPU that CUDA offers to this process. None if a library or the GPU is missing.

    The GPU is identified by its PCI bus ID. Its number cannot be used, because NVML also counts the GPUs that
    CUDA_VISIBLE_DEVICES hides.

    Args:
        cuda: The driver's library, by name or path. NVML's library is always loaded by its usual name.
    """
    handle = _open_nvml(cuda)
    return None if handle is None else _state(handle)


def throttling(card: str | None) -> str | None:
    """Return a warning if heat or the hardware slows down the GPU. None if there is no slowdown or only the power cap.

    `card` is a CardState as JSON.
    """
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
    """Return NVML's handle of the first GPU that CUDA offers.

    NVML is initialized once and stays open until the process ends.
    """
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
    """Query the state of a GPU."""
    import pynvml as nvml

    def ask(function: Callable[..., Any], *arguments: int) -> Any:
        """Query a value. Return None if the GPU or its driver does not support it."""
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    slowdowns = {  # Idle GPUs and clocks limited by the user are left out, because they need no warning.
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
