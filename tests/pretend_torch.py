"""torch.cuda without a GPU: streams that are CuPy's pretended ones, and graphs that do again what was captured.

Torch computes on the CPU. A graph remembers every operation with the tensors that it took and gave, so that a replay
reads and writes the very memory that was captured, as on a card.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Recorded(TorchDispatchMode):
    """Remembers operations as they are done."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        made = function(*arguments, **(options or {}))
        self.done.append((function, arguments, options or {}, made))
        return made


class CUDAGraph:
    replayed = 0

    def __init__(self) -> None:
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        CUDAGraph.replayed += 1
        for function, arguments, options, made in self.done:
            again = function(*arguments, **options)
            pairs = [(made, again)] if isinstance(made, torch.Tensor) else zip(made, again, strict=True)
            for before, now in pairs:
                if before.data_ptr() != now.data_ptr():  # what is a view, or was changed in place, is there already
                    before.copy_(now)


@contextmanager
def graph(cuda_graph: CUDAGraph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
    assert pool == POOL
    assert capture_error_mode == "thread_local"
    if broken:
        raise RuntimeError(f"CUDA error: {broken[0]}\nCompile with TORCH_USE_CUDA_DSA")
    recorded = Recorded()
    with recorded:
        yield
    cuda_graph.done = recorded.done


POOL = "the pool"
broken: list[str] = []
"""What capturing fails with, where it does."""


@contextmanager
def in_stream(stream: Any) -> Iterator[None]:
    yield


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: pointer)
    monkeypatch.setattr(torch.cuda, "stream", in_stream)
