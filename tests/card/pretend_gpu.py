"""A machine with one GPU, CuPy, TensorRT, ONNX Runtime for it and a torch that can use it: all of them pretended."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pretend_torch
import pytest
from pretend_cupy import PretendCupy
from pretend_onnxruntime import pretend_onnxruntime
from pretend_tensorrt import pretend_plan, pretend_tensorrt

from bandlens.app.study import resolve
from bandlens.engine import task_context, tuning
from bandlens.engine.backends import onnxruntime as onnxruntime_session
from bandlens.engine.backends import tensorrt as tensorrt_session
from bandlens.engine.backends import torch as torch_session
from bandlens.engine.device import streams
from bandlens.engine.device.devices import EngineChoice, Readiness
from bandlens.engine.device.nvidia import Gpu
from bandlens.engine.device.requirements import CUDA_PROVIDER
from bandlens.export.plans import plans
from bandlens.probes import arrays


def pretend_gpu(
    monkeypatch: pytest.MonkeyPatch, launcher: Callable[..., Any] | None = None, seed: int | None = None
) -> PretendCupy:
    """The card as CuPy sees it, until the patches are undone. `launcher` starts kernels (see `kernel_launcher`)."""
    xp = PretendCupy(seed=seed)
    streams.network_stream.cache_clear()
    streams.perturbing_stream.cache_clear()
    if launcher:
        monkeypatch.setattr(arrays, "cuda_function", launcher)
    for module in (tensorrt_session, torch_session, tuning):
        monkeypatch.setattr(module, "gpus", lambda: (Gpu("Pretended", 1 << 34, "9.0", "580"),))
    for module in (tensorrt_session, torch_session, tuning, task_context):
        monkeypatch.setattr(module, "arrays_of", lambda _: xp)
    monkeypatch.setattr(tensorrt_session, "load", lambda _: pretend_tensorrt(xp.card))
    monkeypatch.setattr(plans, "build_trt_plan", pretend_plan)
    pretend_torch.pretend(monkeypatch)
    monkeypatch.setattr(torch_session.CardSession, "_device", "cpu")
    for module in (resolve, torch_session, tuning):
        monkeypatch.setattr(module, "readiness", lambda engine: Readiness(True, f"{engine} pretended"))
    for module in (resolve, tuning):
        monkeypatch.setattr(module, "choose_engine", lambda: EngineChoice("tensorrt", "it is pretended"))
    cpu_library = onnxruntime_session.shared_by("onnxruntime")
    card_library = onnxruntime_session.Shared(
        pretend_onnxruntime(),
        xp,
        "Pretended",
        cpu_library.versions,
        CUDA_PROVIDER,
        "cuda",
        onnxruntime_session.GPU_ONLY,
        onnxruntime_session.CUDA_OPTIONS,
        streams.network_stream(xp),
    )
    places = {"onnxruntime": cpu_library, "onnxruntime-cuda": card_library}
    monkeypatch.setattr(onnxruntime_session, "shared_by", places.__getitem__)
    # A process asks for these once: those of another machine are not to be left.
    for module, name in ((tensorrt_session, "shared_device"), (tensorrt_session, "tell_plain")):
        monkeypatch.setattr(module, name, cache(getattr(module, name).__wrapped__))
    return xp
