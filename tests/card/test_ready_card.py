"""A card is ready once a kernel was compiled for it, ran, and gave NumPy's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deferred_card import CudaError
from pretend_cupy import PretendCupy, real

from bandlens.engine.device import devices, requirements
from bandlens.engine.device.devices import readiness
from bandlens.engine.device.nvidia import Gpu
from bandlens.probes import kernels

H100 = (Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06"),)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any]) -> PretendCupy:
    xp = PretendCupy(seed=0)
    monkeypatch.setattr(requirements, "array_module", lambda _: xp)
    monkeypatch.setattr(devices, "gpus", lambda: H100)
    monkeypatch.setattr(kernels, "cuda_function", launcher)
    return xp


def test_a_card_whose_kernel_gives_numpy_s_numbers_is_ready(card: PretendCupy) -> None:
    assert requirements.cupy_version(H100) == "0"


def test_other_numbers_are_found_out(
    card: PretendCupy, launcher: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch_wrongly(source: Path, name: str) -> Callable[..., None]:
        launch = launcher(source, name)

        def start(blocks: Any, threads: Any, arguments: Any) -> None:
            words, keys, seed, *rest = arguments
            launch(blocks, threads, (words, keys, seed + type(seed)(1), *rest))

        return start

    monkeypatch.setattr(kernels, "cuda_function", launch_wrongly)
    monkeypatch.setattr(requirements, "load", lambda _: None)
    state = readiness.__wrapped__("tensorrt")
    assert not state.ready
    assert state.line.startswith("a CUDA kernel gives other numbers than NumPy on this GPU; update")


FAULTS = {
    "no headers": real().cuda.compiler.CompileException("cannot open source file cuda_fp16.h", "", "k.cu", ()),
    "cache": PermissionError(13, "Permission denied", "/read-only/.cupy/kernel_cache"),
    "lost card": CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_keeps_a_kernel_from_running_is_said(
    card: PretendCupy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(*_: Any) -> Any:
        raise FAULTS[name]

    monkeypatch.setattr(kernels, "cuda_function", fails)
    monkeypatch.setattr(requirements, "load", lambda _: None)
    state = readiness.__wrapped__("tensorrt")
    assert not state.ready
    assert state.line.startswith(f"CuPy cannot compile or run a kernel ({FAULTS[name]}); run: pip install")
    assert state.line.endswith("see whether CUPY_CACHE_DIR, by default ~/.cupy, can be written")
    assert "\n" not in state.line
