"""A small libcuda.so.1 in the place of NVIDIA's driver, by gcc."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from gpu_traces import H100
from required import miss

H100_BYTES = 85520809984

SETTING = r"""
#include <stdlib.h>
#include <string.h>

static int setting(const char *name, int usual) {
    const char *text = getenv(name);
    return text ? atoi(text) : usual;
}
"""
"""A number by which the environment changes what a library says."""
DRIVER = (
    SETTING
    + r"""
static const struct { int code; const char *name; } ERRORS[] = {
    {34, "CUDA_ERROR_STUB_LIBRARY"}, {100, "CUDA_ERROR_NO_DEVICE"}, {304, "CUDA_ERROR_OPERATING_SYSTEM"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY"}, {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"}, {999, "CUDA_ERROR_UNKNOWN"},
};

int cuGetErrorName(int code, const char **name) {
    *name = 0;
    for (size_t k = 0; k < sizeof ERRORS / sizeof *ERRORS; k++)
        if (ERRORS[k].code == code) *name = ERRORS[k].name;
    return *name ? 0 : 1;
}
int cuInit(unsigned flags) { return flags ? 1 : setting("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = setting("FAKE_VERSION", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = setting("FAKE_COUNT", 1); return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NAME", length); return device < 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = BYTES; return device < 0; }
int cuDeviceGetPCIBusId(char *place, int length, int device) { strncpy(place, "0000:1B:00.0", length); return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? setting("FAKE_MAJOR", 9) : attribute == 76 ? 0 : -1;
    return device < 0;
}
"""
)


def build_driver(folder: Path) -> Path:
    """A libcuda.so.1 with one H100 and a driver for CUDA 13.0.

    The environment changes it: FAKE_VERSION, FAKE_INIT (the code that cuInit gives), FAKE_COUNT, FAKE_MAJOR (of the
    compute capability). The test is skipped without gcc, unless BANDLENS_REQUIRE names `gcc`.
    """
    if shutil.which("gcc") is None:
        miss("gcc", "no gcc, which makes a CUDA driver to ask")
    file = folder / "libcuda.so.1"
    source = DRIVER.replace("NAME", H100).replace("BYTES", str(H100_BYTES))
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", file, "-"], input=source, text=True, check=True)
    return file


NVML = (
    SETTING
    + r"""
static int is_open;

int nvmlInitWithFlags(unsigned flags) { is_open++; return flags ? 2 : setting("FAKE_NVML", 0); }
int nvmlShutdown(void) { is_open--; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *place, void **handle) {
    *handle = &is_open;
    return strcmp(place, "0000:1B:00.0") ? 6 : 0;
}
int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned *mhz) {
    *mhz = kind == 1 ? 1410 : kind == 2 ? 2619 : 0;
    return handle != &is_open || is_open != 1;
}
int nvmlDeviceGetMaxClockInfo(void *handle, int kind, unsigned *mhz) { *mhz = 1980; return kind != 1; }
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) { *milliwatts = 698500; return handle != &is_open; }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) { *celsius = 71; return sensor; }
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *reasons) {
    *reasons = setting("FAKE_REASONS", 0);
    return 0;
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    *current = *pending = setting("FAKE_MIG", 0);
    return setting("FAKE_MIG", 0) < 0 ? 3 : 0;
}
"""
)


def build_nvml(folder: Path, without: str = "") -> Path:
    """A libnvidia-ml.so.1 that knows the H100 of `build_driver`.

    The environment changes it: FAKE_NVML (the code of nvmlInitWithFlags), FAKE_REASONS, FAKE_MIG (negative: not
    supported). `without` names a function that the library does not have.
    """
    file = folder / "libnvidia-ml.so.1"
    source = NVML.replace(f"int {without}(", "static int unused(") if without else NVML
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", file, "-"], input=source, text=True, check=True)
    return file
