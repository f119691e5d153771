"""ONNX Runtime's CUDA provider without a GPU: its CPU provider does the work when the card comes to it.

What a session asks for is that of the addresses that were bound when it asked, in the stream that its settings name.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import ref

import onnxruntime
from deferred_card import STREAMS, CudaError

NO_CPU = "session.disable_cpu_ep_fallback"


class SessionOptions(onnxruntime.SessionOptions):
    def add_session_config_entry(self, key: str, value: str) -> None:
        if key != NO_CPU:  # there is nothing else here
            super().add_session_config_entry(key, value)


class InferenceSession:
    def __init__(self, content: bytes, options: Any, providers: Any, enable_fallback: int) -> None:
        [(self.provider, self.settings)] = providers
        self.stream = STREAMS[int(self.settings["user_compute_stream"])]
        if self.stream.card.lost:
            raise RuntimeError(f"CUDA failure 700: {self.stream.card.lost}")
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return [self.provider]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        bound, session = dict(binding.bound), ref(self)

        def work() -> None:
            if (owner := session()) is None:
                raise CudaError("a session was destroyed while it ran")
            places = owner.session.io_binding()
            for name, place in bound.items():
                bind = places.bind_output if name == "logits" else places.bind_input
                bind(name, "cpu", *place)
            owner.session.run_with_iobinding(places)

        self.stream.put(work, 1e-6)


class Binding:
    def __init__(self) -> None:
        self.bound: dict[str, tuple[Any, ...]] = {}
        """Name -> number of the device, type, shape and address."""

    def bind_input(self, name: str, device: str, *place: Any) -> None:
        assert device == "cuda"
        self.bound[name] = place

    bind_output = bind_input


def pretend_onnxruntime() -> Any:
    """The module, as far as a session on a GPU uses it."""
    return SimpleNamespace(
        SessionOptions=SessionOptions, InferenceSession=InferenceSession, RunOptions=onnxruntime.RunOptions
    )
