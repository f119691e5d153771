"""Pretends a card for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from networks import gpu_checks, rtx  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from pretend_cupy import PretendCupy


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The launcher of kernels that g++ has compiled, in place of `cuda_function`."""
    from pretend_cupy import compile_kernels, kernel_launcher

    return kernel_launcher(compile_kernels(tmp_path_factory.mktemp("kernels")))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any]) -> PretendCupy:
    from pretend_gpu import pretend_gpu

    return pretend_gpu(monkeypatch, launcher)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA driver with one H100."""
    from pretend_driver import build_driver

    return build_driver(tmp_path_factory.mktemp("driver"))
