"""A card is ready once a kernel was compiled for it, ran, and gave NumPy's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deferred_card import CudaError
from pretend_cupy import PretendCupy, real

from bandlens.core.errors import EngineError
from bandlens.engine.device import requirements
from bandlens.engine.device.nvidia import Gpu
from bandlens.probes import arrays

H100 = (Gpu("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "580.65.06"),)
COMPILE_ERROR = real().cuda.compiler.CompileException("cannot open source file cuda_fp16.h", "", "k.cu", ())


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "array_module", lambda _: PretendCupy(seed=0))


def test_a_card_is_ready_if_its_kernel_gives_numpys_numbers_and_not_if_it_gives_others(
    launcher: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch_wrongly(source: Path, name: str) -> Callable[..., None]:
        launch = launcher(source, name)

        def start(blocks: Any, threads: Any, arguments: Any) -> None:
            words, keys, seed, *rest = arguments
            launch(blocks, threads, (words, keys, seed + type(seed)(1), *rest))

        return start

    monkeypatch.setattr(arrays, "cuda_function", launcher)
    assert requirements.cupy_version(H100) == "0"
    monkeypatch.setattr(arrays, "cuda_function", launch_wrongly)
    with pytest.raises(EngineError, match=r"^a CUDA kernel gives other numbers than NumPy on this GPU; update"):
        requirements.cupy_version(H100)


@pytest.mark.parametrize(
    "fault", [COMPILE_ERROR, PermissionError("no folder for kernels"), CudaError("an illegal memory access")], ids=type
)
def test_what_keeps_a_kernel_from_running_is_said(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fails(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr(arrays, "cuda_function", fails)
    with pytest.raises(EngineError) as error:
        requirements.cupy_version(H100)
    assert str(error.value).startswith(f"CuPy cannot compile or run a kernel ({fault}); run: pip install")
    assert str(error.value).endswith("see whether CUPY_CACHE_DIR, by default ~/.cupy, can be written")
