"""What a session is, and the backends that make one."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from ..errors import UnknownName
from ..probes.arrays import Array
from ..records import Model, SessionInfo

BACKENDS = {"onnxruntime": "numpy"}
"""Each backend and the array module whose batches it takes."""


class Session(Protocol):
    """One model loaded in one backend at one precision and one fixed batch shape. A context manager."""

    @property
    def model(self) -> Model: ...

    @property
    def info(self) -> SessionInfo: ...

    def infer(self, images: Array) -> Array:
        """Logits, (batch, classes) float32, of (batch, 3, size, size) float32 RGB in [0, 1].

        The array belongs to the session: the next call overwrites it.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(model: Model, backend: str, precision: str, batch: int, threads: int) -> Session:
    """A session of the backend by name; EngineError when it cannot run what is asked for. Nothing falls back."""
    if backend not in BACKENDS:
        raise UnknownName("engine", backend, BACKENDS)
    from .onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(model, precision, batch, threads)
