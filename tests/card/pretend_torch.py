"""torch.cuda without a GPU: streams that are CuPy's pretended ones, and graphs that do again what was captured.

Torch computes on the CPU. What is asked of a stream is tried at once, for the shapes of what it gives; what it wrote is
put back, what it gave is overwritten, and it is done again, with the tensors that it took and gave, when the card comes
to it. So do graphs: a replay reads and writes the very memory that was captured.

Not pretended: memory of torch's own, which nobody gets before all work on it is done, and copies between host and card,
which are one memory here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from deferred_card import KNOWN, CudaError, DeferredCard, DeferredStream
from pretend_cupy import CardArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Marks of operations that the host waits for, since it needs a value. Indexing has one whatever it goes by."""


class Asked(TorchDispatchMode):
    """Within the block torch's work is put into a stream."""

    def __init__(self, stream: DeferredStream) -> None:
        super().__init__()
        self.stream = stream

    def __enter__(self) -> Asked:
        entered.append(self.stream)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        entered.pop()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        with _disable_current_modes():
            if WAITING & set(function.tags):
                self.stream.synchronize()
                return function(*arguments, **options or {})
            taken, named = tree_map_only(Tensor, lambda tensor: tensor.data, (arguments, options or {}))
            before = [(tensor, tensor.clone()) for tensor in written(function, taken)]
            made = function(*arguments, **options or {})
            for tensor, content in before:
                tensor.copy_(content)
            gave, argument_places = tensors(made), {place(tensor) for tensor in tensors((taken, named))}
            fresh = [number for number, tensor in enumerate(gave) if place(tensor) not in argument_places]
            for number in fresh:
                gave[number].fill_(torch.nan if gave[number].is_floating_point() else 0)  # any index may be 0

            def work() -> None:
                with _disable_current_modes():
                    again = tensors(function(*taken, **named))
                    for number in fresh:
                        gave[number].copy_(again[number])

            try:
                self.stream.put(work, 1e-6)
            except CudaError as error:
                raise torch.AcceleratorError(f"CUDA error: {error}") from None
            return made


entered: list[DeferredStream] = []


def written(function: Any, arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors that the operation works on in place."""
    pairs = zip(function._schema.arguments, arguments, strict=False)
    return [tensor for declared, tensor in pairs if declared.alias_info and declared.alias_info.is_write]


def tensors(values: Any) -> list[Tensor]:
    """Those among the values, as autograd does not know them: it counts their changes, and need not know of ours."""
    return [value.data for value in tree_leaves(values) if isinstance(value, Tensor)]


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class CUDAGraph:
    replayed = 0

    def __init__(self) -> None:
        self.captured: Sequence[Callable[[], None]] = ()

    def replay(self) -> None:
        CUDAGraph.replayed += 1
        graph = ref(self)

        def work() -> None:
            if (owner := graph()) is None:
                raise CudaError("a graph was destroyed while it ran")
            for step in owner.captured:
                step()

        entered[-1].put(work, 1e-6)


@contextmanager
def graph(cuda_graph: CUDAGraph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
    assert pool == POOL
    assert capture_error_mode == "thread_local"
    if broken:
        raise RuntimeError(f"CUDA error: {broken[0]}\nCompile with TORCH_USE_CUDA_DSA")
    with in_stream(stream):
        entered[-1].begin_capture()
        try:
            yield
        finally:
            cuda_graph.captured = [step for step, _ in entered[-1].end_capture().work]


POOL = "the pool"
broken: list[str] = []
"""Messages with which capturing fails; an empty list lets it succeed."""


def in_stream(pointer: int) -> Asked:
    return Asked(KNOWN[pointer])


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_as_tensor = torch.as_tensor

    def as_tensor(array: Any, **options: Any) -> Tensor:
        return torch.from_numpy(array.here) if isinstance(array, CardArray) else torch_as_tensor(array, **options)

    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: pointer)
    monkeypatch.setattr(torch.cuda, "stream", in_stream)


@contextmanager
def torch_on(card: DeferredCard, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that torch does within the block is done on the card: where nothing else is said, in the null stream."""

    def cpu(tensor: Tensor) -> Tensor:
        with _disable_current_modes():
            entered[-1].synchronize()
            return tensor.clone()

    with Asked(card.null), monkeypatch.context() as patch:
        patch.setattr(Tensor, "cpu", cpu)
        yield
