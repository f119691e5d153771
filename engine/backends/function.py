"""Run a Python function as a model. Every batch has the same shape, and images and logits are in host memory."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from ...core.records import SessionInfo, Variant
from ...export.functions import function_of, logits_of
from ..device.devices import processor_name
from .base import ALL_ROWS, Session, check_images


class FunctionSession(Session):
    """A session that calls a Python function."""

    def __init__(self, variant: Variant, batch: int, _threads: int) -> None:
        """Open a session. Raises EngineError if the function is not available in this process."""
        self.variant = variant
        self._function, self._layout = function_of(variant.model)
        versions = {"numpy": np.__version__, "source": variant.model.source}
        self.info = SessionInfo(processor_name(), batch, 0, json.dumps(versions))
        self._shape = (batch, 3, variant.model.image_size, variant.model.image_size)

    def infer(self, images: NDArray[np.float32], _rows: slice = ALL_ROWS) -> NDArray[np.float32]:
        """Compute the logits of the whole batch.

        A function that was compiled for one shape therefore always receives that shape.
        """
        check_images(self.variant, images, self._shape)
        model = self.variant.model
        return logits_of(self._function, images, self._layout, model.name, model.classes)


open_session = FunctionSession
