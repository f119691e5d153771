"""What runs a graph for ONNX Runtime, and what all sessions of it share: the library, a stream, an arena.

Sessions on the CPU, and those on CUDA, have one arena for activations: 48 ResNet-50s would otherwise each keep some of
their own. The TensorRT provider lets no two sessions share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..records import Variant
from .devices import gpus, processor_name, readiness
from .requirements import ONNXRUNTIME, ONNXRUNTIME_GPU, load, usable
from .saturation import multiplies_exactly
from .session import arrays_of, graph_of

SILENT = 4
"""The severity below which ONNX Runtime says nothing: what matters comes as an exception."""


def _cuda_options(_: Variant, __: int) -> dict[str, str]:
    # The heuristic takes the same algorithms in every process; a search takes those that happened to be faster.
    return {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def _tensorrt_options(variant: Variant, batch: int) -> dict[str, str]:
    # ONNX Runtime tells engines apart by the names in their graphs, which every ResNet-50 shares, whatever its weights
    # and its batch: so each has a folder of its own.
    timing = graph_of(variant).models / "plans" / "onnxruntime"
    engines = timing / f"{variant.model.name}.{variant.precision}.b{batch}.{variant.sha256[:12]}"
    engines.mkdir(parents=True, exist_ok=True)
    return {
        "trt_fp16_enable": str(variant.precision == "fp16"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(timing),
    }


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider of ONNX Runtime."""

    name: str
    device: str
    """Where its inputs and outputs lie, in ONNX Runtime's words."""
    config: Mapping[str, str]
    """Of every session."""
    options: Callable[[Variant, int], dict[str, str]] = lambda *_: {}
    """Of the provider, for a variant and a batch size."""


SHARED = {"session.use_env_allocators": "1"}
GPU_ONLY = SHARED | {"session.disable_cpu_ep_fallback": "1", "session.use_device_allocator_for_initializers": "1"}
PROVIDERS: dict[str, Provider] = {
    "onnxruntime": Provider("CPUExecutionProvider", "cpu", SHARED),
    "onnxruntime-cuda": Provider("CUDAExecutionProvider", "cuda", GPU_ONLY, _cuda_options),
    "onnxruntime-tensorrt": Provider("TensorrtExecutionProvider", "cuda", GPU_ONLY, _tensorrt_options),
}
"""Of each backend."""
EXACT = {"session.x64quantprecision": "1"}
"""No sums that are cut to 16 bits. It costs more than half of the speed on a processor that would not do so anyway."""


@dataclass(frozen=True, slots=True)
class Place:
    """What all sessions of a backend share."""

    ort: Any
    xp: ModuleType
    device: str
    versions: Mapping[str, str]
    stream: Any = None
    """Where all of them work; None on the CPU."""

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """What is asked of the stream comes after what the caller has asked for, and before what it asks for next."""
        if self.stream is None:
            yield
            return
        caller = self.xp.cuda.get_current_stream()
        self.stream.wait_event(caller.record())
        yield
        caller.wait_event(self.stream.record())


@cache
def place_of(backend: str) -> Place:
    """EngineError where the backend cannot be used here, with what it lacks."""
    return _on_cpu() if PROVIDERS[backend].device == "cpu" else _on_gpu(backend)


@cache
def for_int8() -> Mapping[str, str]:
    """What sessions on the CPU must be told on this processor, so that int8 is what the graph says."""
    ort = place_of("onnxruntime").ort

    def run(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
        session = ort.InferenceSession(content, providers=[PROVIDERS["onnxruntime"].name])
        return np.asarray(session.run(None, {"images": images})[0])

    return {} if multiplies_exactly(run) else EXACT


def _on_cpu() -> Place:
    ort = load(ONNXRUNTIME)
    ort.set_default_logger_severity(SILENT)
    ort.create_and_register_allocator(_arena(ort, "Cpu"), None)
    return Place(ort, np, processor_name(), {"onnxruntime": ort.__version__, "numpy": np.__version__})


def _on_gpu(backend: str) -> Place:
    gpu = usable(gpus())
    if not readiness(backend).ready:
        raise EngineError(readiness(backend).line)
    xp, ort = arrays_of(backend), load(ONNXRUNTIME_GPU)
    ort.set_default_logger_severity(SILENT)
    provider = PROVIDERS[backend].name
    if provider == "CUDAExecutionProvider":
        as_requested = ort.OrtArenaCfg({"arena_extend_strategy": 1})
        ort.create_and_register_allocator_v2(provider, _arena(ort, "Cuda"), {}, as_requested)
    versions = {"onnxruntime": ort.__version__, "cupy": xp.__version__, "driver": gpu.driver}
    return Place(ort, xp, gpu.name, versions, xp.cuda.Stream(non_blocking=True))


def _arena(ort: Any, device: str) -> Any:
    return ort.OrtMemoryInfo(device, ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
