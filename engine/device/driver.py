"""The CUDA driver, asked through ctypes: no CUDA package has to be installed or to work for it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass

from ...core.errors import EngineError

CUDA_VERSION = 13000
"""The version that the GPU packages are built for, 13.0, as the driver counts."""
NEEDED_DRIVER = 580
OLDEST_CAPABILITY = (7, 5)
"""Turing: CUDA 13 makes no code for what is older."""
CAPABILITY_MAJOR, CAPABILITY_MINOR, L2_CACHE_SIZE = 75, 76, 38
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR, and CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE."""
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
    l2_bytes: int = 0
    """Bytes of the L2 cache; 0 where they are not known."""

    @property
    def compute(self) -> tuple[int, int]:
        """The compute capability as numbers."""
        major, minor = self.capability.split(".")
        return int(major), int(minor)


def ask_driver(cuda: ctypes.CDLL, driver: str) -> tuple[Gpu, ...]:
    """The GPUs in CUDA's order, of which the first can be used; EngineError with what is wrong and what to do.

    Args:
        cuda: the driver's library, libcuda.so.1.
        driver: the driver's version, or empty where it is not known.
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
    if _capability(cuda, 0) < OLDEST_CAPABILITY:
        raise EngineError(
            f"{first.name} has compute capability {first.capability}, and CUDA 13 needs 7.5 or higher; where "
            "there is a newer GPU too, name that one alone in CUDA_VISIBLE_DEVICES"
        )
    return first, *rest


def _describe(cuda: ctypes.CDLL, ordinal: int, driver: str) -> Gpu:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(cuda, "cuDeviceGetName", name, len(name), ordinal)
    _call(cuda, "cuDeviceTotalMem_v2", byref(memory), ordinal)
    capability = "{}.{}".format(*_capability(cuda, ordinal))
    l2_bytes = _attribute(cuda, L2_CACHE_SIZE, ordinal)
    return Gpu(name.value.decode(errors="replace"), memory.value, capability, driver, l2_bytes)


def _capability(cuda: ctypes.CDLL, ordinal: int) -> tuple[int, int]:
    return _attribute(cuda, CAPABILITY_MAJOR, ordinal), _attribute(cuda, CAPABILITY_MINOR, ordinal)


def _attribute(cuda: ctypes.CDLL, attribute: int, ordinal: int) -> int:
    value = ctypes.c_int()
    _call(cuda, "cuDeviceGetAttribute", byref(value), attribute, ordinal)
    return value.value


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
