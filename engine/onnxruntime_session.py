"""ONNX Runtime on the CPU: fp32, a fixed batch, inputs and outputs bound to memory that is reused."""

from __future__ import annotations

import json
import platform
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..records import SessionInfo, Variant
from .session import content_of


class OnnxRuntimeSession:
    """See `engine.session.Session`."""

    def __init__(self, variant: Variant, batch: int, threads: int) -> None:
        ort = _onnxruntime()
        model = variant.model
        self.variant = variant
        self._session = _open(ort, variant, batch, threads)
        self._logits = np.empty((batch, model.classes), np.float32)
        self._shape = (batch, 3, model.image_size, model.image_size)
        self._binding: Any = self._session.io_binding()
        self._bind(self._binding.bind_output, "logits", self._logits)
        self.info = SessionInfo(
            device=_processor(),
            batch=batch,
            threads=threads,
            versions=json.dumps({"onnxruntime": ort.__version__, "numpy": np.__version__}),
        )

    @staticmethod
    def _bind(bind: Any, name: str, array: NDArray[np.float32]) -> None:
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of one batch; the array is overwritten by the next call."""
        if images.shape != self._shape or images.dtype != np.float32 or not images.flags.c_contiguous:
            raise EngineError(
                f"{self.variant}: got {images.dtype} images of shape {images.shape}; "
                f"this session takes contiguous float32 of shape {self._shape}"
            )
        self._bind(self._binding.bind_input, "images", images)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"{self.variant}: ONNX Runtime failed: {_line(error)}; try a smaller batch") from error
        return self._logits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._binding, self._session


def open_session(variant: Variant, batch: int, threads: int) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(variant, batch, threads)


@cache
def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError("ONNX Runtime is not installed; run: pip install 'bandlens[cpu]'") from None
    onnxruntime.set_default_logger_severity(3)
    # One arena for all sessions: 48 ResNet-50s would otherwise each keep activations of their own.
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)
    return onnxruntime


def _open(ort: Any, variant: Variant, batch: int, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("batch", batch)
    options.add_session_config_entry("session.use_env_allocators", "1")
    content = content_of(variant)
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(
            f"{variant.path}: ONNX Runtime cannot open it: {_line(error)}; export {variant.model.name} again"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
