"""torch.cuda without a GPU: streams that are CuPy's pretended ones.

Torch computes on the CPU. What is asked of a stream is tried at once, for the shapes of what it gives; what it wrote is
put back, what it gave is overwritten, and it is done again, with the tensors that it took and gave, when the card comes
to it.

Not pretended: memory of torch's own, which nobody gets before all work on it is done, but for the weights of a session
that is closed; and copies between host and card, which are one memory here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from deferred_card import STREAMS, CudaError, DeferredCard, DeferredStream
from pretend_cupy import CardArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from bandlens.engine.backends.base import ALL_ROWS
from bandlens.engine.backends.torch import CardSession
from bandlens.engine.device.streams import network_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Marks of operations that the host waits for, since it needs a value. Indexing has one whatever it goes by."""


class StreamMode(TorchDispatchMode):
    """Within the block torch's work is put into a stream."""

    def __init__(self, stream: DeferredStream) -> None:
        super().__init__()
        self.stream = stream

    def __enter__(self) -> StreamMode:
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
            values, keywords = tree_map_only(Tensor, lambda tensor: tensor.data, (arguments, options or {}))
            originals = [(tensor, tensor.clone()) for tensor in written_tensors(function, values)]
            results = function(*arguments, **options or {})
            for tensor, content in originals:
                tensor.copy_(content)
            gave, argument_places = tensors(results), {place(tensor) for tensor in tensors((values, keywords))}
            fresh = [number for number, tensor in enumerate(gave) if place(tensor) not in argument_places]
            for number in fresh:
                gave[number].fill_(torch.nan if gave[number].is_floating_point() else 0)  # any index may be 0

            def work() -> None:
                with _disable_current_modes():
                    again = tensors(function(*values, **keywords))
                    for number in fresh:
                        gave[number].copy_(again[number])

            try:
                self.stream.put(work, 1e-6)
            except CudaError as error:
                raise torch.AcceleratorError(f"CUDA error: {error}") from None
            return results


entered: list[DeferredStream] = []


def written_tensors(function: Any, arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors that the operation works on in place."""
    pairs = zip(function._schema.arguments, arguments, strict=False)
    return [tensor for declared, tensor in pairs if declared.alias_info and declared.alias_info.is_write]


def tensors(values: Any) -> list[Tensor]:
    """Those among the values, as autograd does not know them: it counts their changes, and need not know of ours."""
    return [value.data for value in tree_leaves(values) if isinstance(value, Tensor)]


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def infer(session: CardSession, images: Any, rows: slice = ALL_ROWS) -> Any:
    """This stands in place of a session's `infer`. Torch hands its weights' memory on without waiting for the work."""
    logits, owner = infer_as_it_is(session, images, rows), ref(session)

    def check() -> None:
        if not hasattr(owner(), "network"):
            raise CudaError("a network was destroyed while it ran")

    network_stream(session._xp).put(check)
    return logits


infer_as_it_is = CardSession.infer


def in_stream(pointer: int) -> StreamMode:
    return StreamMode(STREAMS[pointer])


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_as_tensor = torch.as_tensor

    def as_tensor(array: Any, **options: Any) -> Tensor:
        return torch.from_numpy(array.buffer) if isinstance(array, CardArray) else torch_as_tensor(array, **options)

    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    monkeypatch.setattr(CardSession, "infer", infer)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: pointer)
    monkeypatch.setattr(torch.cuda, "stream", in_stream)


@contextmanager
def torch_on(card: DeferredCard, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that torch does within the block is done on the card: where nothing else is said, in the null stream."""

    def cpu(tensor: Tensor) -> Tensor:
        with _disable_current_modes():
            entered[-1].synchronize()
            return tensor.clone()

    with StreamMode(card.null), monkeypatch.context() as patch:
        patch.setattr(Tensor, "cpu", cpu)
        yield
