"""Machines with NVIDIA GPUs: the files that a kernel shows of them, and a small libcuda.so.1 for the driver's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

H100 = "NVIDIA H100 80GB HBM3"
H100_BYTES = 85520809984

DRIVER = r"""
#include <stdlib.h>
#include <string.h>

static int setting(const char *name, int usual) {
    const char *text = getenv(name);
    return text ? atoi(text) : usual;
}

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
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? setting("FAKE_MAJOR", 9) : attribute == 76 ? 0 : -1;
    return device < 0;
}
"""


def build_driver(folder: Path) -> Path:
    """A libcuda.so.1 with one H100 and a driver for CUDA 13.0.

    The environment changes it: FAKE_VERSION, FAKE_INIT (the code that cuInit gives), FAKE_COUNT, FAKE_MAJOR (of the
    compute capability). The test is skipped without gcc, unless BANDLENS_REQUIRE names `gcc`.
    """
    if shutil.which("gcc") is None:
        if "gcc" in os.environ.get("BANDLENS_REQUIRE", "").split(","):
            pytest.fail("no gcc")
        pytest.skip("no gcc, which makes a CUDA driver to ask")
    file = folder / "libcuda.so.1"
    source = DRIVER.replace("NAME", H100).replace("BYTES", str(H100_BYTES))
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", file, "-"], input=source, text=True, check=True)
    return file


def build_tree(root: Path, *traces: str) -> Path:
    """A folder with what the kernel shows: any of `module`, `gpu`, `node`, `card`, `wsl`, `other` (another maker's)."""
    files = {
        "module": [("proc/driver/nvidia/version", OPEN_MODULE)],
        "gpu": [("proc/driver/nvidia/gpus/0000:0f:00.0/information", f"Model: \t\t {H100}\nIRQ:   \t\t 178\n")],
        "node": [("dev/nvidiactl", ""), ("dev/nvidia0", "")],
        "card": [*_card("0000:0f:00.0", "0x10de", "0x030200"), *_card("0000:0f:00.1", "0x10de", "0x040300")],
        "wsl": [("dev/dxg", ""), ("usr/lib/wsl/lib/libcuda.so.1", "")],
        "other": [*_card("0000:00:02.0", "0x8086", "0x030000"), ("dev/dxg", ""), ("usr/lib/wsl/lib/libdxcore.so", "")],
    }
    root.mkdir(parents=True, exist_ok=True)
    for trace in traces:
        for name, content in files[trace]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
    return root


OPEN_MODULE = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (builder@host)
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""
CLOSED_MODULE = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024
GCC version:  gcc version 11.4.0
"""


def _card(place: str, vendor: str, kind: str) -> list[tuple[str, str]]:
    folder = f"sys/bus/pci/devices/{place}"
    return [(f"{folder}/vendor", f"{vendor}\n"), (f"{folder}/class", f"{kind}\n")]
