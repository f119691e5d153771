"""TensorRT-RTX itself: its builder, and the cards that its code is for."""

from __future__ import annotations

import re

import pytest

from bandlens.engine.device import requirements
from bandlens.engine.device.devices import (
    readiness_with,
)
from bandlens.engine.device.driver import Gpu
from bandlens.engine.device.requirements import (
    TENSORRT_RTX,
    load,
    try_builder,
)

H100 = (Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06"),)


def test_a_real_builder_is_made() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the extra rtx is not installed")
    try_builder(load(TENSORRT_RTX), TENSORRT_RTX)


L4, T4, A100 = (Gpu(name, 1, capability, "580") for name, capability in (("L4", "8.9"), ("T4", "7.5"), ("A100", "8.0")))


def test_tensorrt_rtx_is_for_rtx_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's matrix for TensorRT-RTX has Turing, Ampere, Ada and Blackwell cards, and no Hopper."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="the extra rtx is not installed")
    monkeypatch.setattr(requirements, "cupy_version", lambda _: "14")
    assert readiness_with("tensorrt-rtx", (L4,)).ready
    refused = readiness_with("tensorrt-rtx", H100)
    assert not refused.ready
    assert re.search(r"^TensorRT-RTX 1\.\S+ has no code for NVIDIA H100", refused.line)
