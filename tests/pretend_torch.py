"""torch.cuda without a GPU: streams that are CuPy's pretended ones, and graphs that do again what was captured.

Torch computes on the CPU. What is asked of a stream is tried at once, for its shapes, on whatever lies there; what was
changed is put back, and the operations are done again, with the tensors that they took and gave, when the card comes to
them. So do graphs: a replay reads and writes the very memory that was captured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import torch
from deferred_card import KNOWN, CudaError
from pretend_cupy import CardArray
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

    @torch.no_grad()
    def again(self) -> None:
        for function, arguments, options, made in self.done:
            again = function(*arguments, **options)
            pairs = [(made, again)] if isinstance(made, torch.Tensor) else zip(made, again, strict=True)
            for before, now in pairs:
                if before.data_ptr() != now.data_ptr():  # what is a view, or was changed in place, is there already
                    before.copy_(now)


class CUDAGraph:
    replayed = 0

    def __init__(self) -> None:
        self.captured = Recorded()

    def replay(self) -> None:
        CUDAGraph.replayed += 1
        graph = ref(self)

        def work() -> None:
            if (there := graph()) is None:
                raise CudaError("a graph was destroyed while it ran")
            there.captured.again()

        asked.append(work)


asked: list[Callable[[], None]] = []
"""Within a block that asks a stream for work: what it asks for in place of the operations that are done there."""
lent: dict[int, np.ndarray] = {}
"""Memory of CuPy's that torch has seen, by its address."""


@contextmanager
def tried() -> Iterator[Recorded]:
    """What is done within the block, which leaves no trace in CuPy's memory."""
    before = [(place, place.copy()) for place in lent.values()]
    try:
        with Recorded() as recorded:
            yield recorded
    finally:
        for place, content in before:
            np.copyto(place, content)


@contextmanager
def graph(cuda_graph: CUDAGraph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
    assert pool == POOL
    assert capture_error_mode == "thread_local"
    if broken:
        raise RuntimeError(f"CUDA error: {broken[0]}\nCompile with TORCH_USE_CUDA_DSA")
    with tried() as cuda_graph.captured:
        yield
    asked.append(lambda: None)


POOL = "the pool"
broken: list[str] = []
"""What capturing fails with, where it does."""


@contextmanager
def in_stream(pointer: int) -> Iterator[None]:
    stream = KNOWN[pointer]
    with stream.card.lock:
        asked.clear()
        with tried() as recorded:
            yield
        for work in asked or [recorded.again]:
            stream.put(work, 1e-6)


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    there = torch.as_tensor

    def as_tensor(array: Any, **options: Any) -> torch.Tensor:
        if not isinstance(array, CardArray):
            return there(array, **options)
        lent[array.data.ptr] = array.here
        return torch.from_numpy(array.here)

    lent.clear()
    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: pointer)
    monkeypatch.setattr(torch.cuda, "stream", in_stream)
