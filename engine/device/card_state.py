"""The state of an NVIDIA card, by NVML through ctypes: clocks, power, temperature, and what holds the clocks down."""

from __future__ import annotations

import ctypes
import json
from ctypes import byref
from dataclasses import dataclass
from functools import cache

SM, MEMORY = 1, 2
"""NVML_CLOCK_SM and NVML_CLOCK_MEM."""
POWER_CAP = "software power cap"
"""The reason that is usual for a card at full load."""
THROTTLE_REASONS = {
    0x4: POWER_CAP,
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of nvmlDeviceGetCurrentClocksThrottleReasons that slow a card down; idling and clocks that were set do not."""
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


def card_state(cuda: str = "libcuda.so.1", nvml: str = "libnvidia-ml.so.1") -> CardState | None:
    """The state of the first card that CUDA offers this process; None where a library, or the card, is missing.

    The card is found by its place on the PCI bus, since NVML counts cards that CUDA_VISIBLE_DEVICES hides.
    """
    try:
        card = _open_nvml(cuda, nvml)
        return None if card is None else _state(*card)
    except (OSError, AttributeError):  # there is no such library, or it is too old to have a function
        return None


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
def _open_nvml(cuda: str, nvml: str) -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """NVML, started once in a process, and the card in it."""
    place, handle = ctypes.create_string_buffer(BUS_ID_BYTES), ctypes.c_void_p()
    driver, library = ctypes.CDLL(cuda), ctypes.CDLL(nvml)
    if driver.cuInit(0) or driver.cuDeviceGetPCIBusId(place, BUS_ID_BYTES, 0) or library.nvmlInit_v2():
        return None
    return None if library.nvmlDeviceGetHandleByPciBusId_v2(place, byref(handle)) else (library, handle)


def _state(library: ctypes.CDLL, handle: ctypes.c_void_p) -> CardState:
    def number(function: str, *arguments: int) -> int | None:
        value = ctypes.c_ulonglong()  # zeros beyond what a function writes
        return None if getattr(library, function)(handle, *arguments, byref(value)) else value.value

    current, pending = ctypes.c_uint(), ctypes.c_uint()
    has_mig = not library.nvmlDeviceGetMigMode(handle, byref(current), byref(pending))
    milliwatts, reasons = number("nvmlDeviceGetPowerUsage"), number("nvmlDeviceGetCurrentClocksThrottleReasons")
    return CardState(
        sm_mhz=number("nvmlDeviceGetClockInfo", SM),
        largest_sm_mhz=number("nvmlDeviceGetMaxClockInfo", SM),
        memory_mhz=number("nvmlDeviceGetClockInfo", MEMORY),
        watts=None if milliwatts is None else milliwatts / 1000,
        celsius=number("nvmlDeviceGetTemperature", 0),
        throttled=None if reasons is None else tuple(name for bit, name in THROTTLE_REASONS.items() if reasons & bit),
        mig=bool(current.value) if has_mig else None,
    )
