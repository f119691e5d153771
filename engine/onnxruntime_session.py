"""ONNX Runtime on the CPU, and on a GPU through CUDA or TensorRT: a fixed batch, inputs and outputs bound to memory
that is reused. Nothing falls back: a graph that the provider cannot run whole is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import DeviceError, EngineError
from ..probes.arrays import Array
from ..records import SessionInfo, Variant
from .onnxruntime_errors import advice, is_of_gpu, reason
from .onnxruntime_providers import PROVIDERS, SILENT, for_int8, place_of
from .session import check_images, content_of

NO_WAIT = "disable_synchronize_execution_providers"
"""Of a run: it ends when its work has been asked for."""


def open_session(variant: Variant, batch: int, threads: int) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(variant, batch, threads)


class OnnxRuntimeSession:
    """See `engine.session.Session`."""

    def __init__(self, variant: Variant, batch: int, threads: int) -> None:
        """`threads` are not used on a GPU. Raises EngineError, and DeviceError where a GPU has no room."""
        self.variant = variant
        self._provider, self._place = PROVIDERS[variant.backend], place_of(variant.backend)
        on_gpu = self._place.stream is not None
        self.info = SessionInfo(
            self._place.device, batch, 0 if on_gpu else threads, json.dumps(dict(self._place.versions))
        )
        self._shape = (batch, 3, variant.model.image_size, variant.model.image_size)
        self._session = self._open()
        self._run_options = self._place.ort.RunOptions()
        if on_gpu:  # the caller's stream waits, and the caller need not
            self._run_options.add_run_config_entry(NO_WAIT, "1")
        self._logits = self._place.xp.empty((batch, variant.model.classes), dtype=np.float32)
        self._binding: Any = self._session.io_binding()
        self._bind(self._binding.bind_output, "logits", self._logits)

    def _open(self) -> Any:
        variant, place, provider = self.variant, self._place, self._provider
        options = place.ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = self.info.threads or 1
        options.use_deterministic_compute = place.stream is not None
        options.add_free_dimension_override_by_name("batch", self.info.batch)
        for name, value in {**provider.config, **(for_int8() if variant.precision == "int8" else {})}.items():
            options.add_session_config_entry(name, value)
        settings = provider.options(variant, self.info.batch)
        if place.stream is not None:
            settings |= {"user_compute_stream": str(place.stream.ptr)}
        content = content_of(variant)
        try:
            session = place.ort.InferenceSession(
                content, options, providers=[(provider.name, settings)], enable_fallback=0
            )
        except Exception as error:
            what = f"{variant.path}: ONNX Runtime cannot open it: {reason(error)}"
            if place.stream is not None and is_of_gpu(error):
                raise DeviceError(f"{what}; {advice(error, 'see what `bandlens doctor` says')}") from error
            raise EngineError(f"{what}; take another engine, or export {variant.model.name} again") from error
        if session.get_providers()[0] != provider.name:
            raise EngineError(f"{variant}: ONNX Runtime opened it without {provider.name}; see `bandlens doctor`")
        session._model_bytes = None  # the whole file, kept for a fallback
        return session

    def _bind(self, bind: Callable[..., None], name: str, array: Array) -> None:
        address = array.ctypes.data if self._place.xp is np else array.data.ptr
        bind(name, self._provider.device, 0, np.float32, array.shape, address)

    def infer(self, images: Array) -> Array:
        """Logits of one batch; the array is overwritten by the next call."""
        check_images(self.variant, images, self._shape)
        self._bind(self._binding.bind_input, "images", images)
        try:
            with self._place.in_turn():
                self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:
            raise self._failure(error) from error
        return self._logits

    def _failure(self, error: Exception) -> EngineError:
        what = f"{self.variant}: ONNX Runtime failed at batch {self.info.batch}: {reason(error)}"
        if self._place.stream is None:
            return EngineError(f"{what}; try a smaller batch")
        return DeviceError(f"{what}; {advice(error, 'what was committed stays, and the next run goes on there')}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place.stream is not None:
            self._place.stream.synchronize()
        del self._binding, self._session, self._logits
