"""The files that a kernel shows of NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path

H100 = "NVIDIA H100 80GB HBM3"


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
