"""The images of a run: in the host's memory, or on their way to the card."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DeviceError
from ...core.untrusted import words_of
from ...probes.arrays import Array
from ...probes.images.image_set import ImageSet

Take = Callable[[NDArray[np.int64]], Array]
"""(k,) indices -> (k, 3, size, size) uint8, in the array module of the run."""


def free_memory(xp: ModuleType) -> int:
    """Bytes on the card that may be allocated, those that CuPy keeps for reuse included."""
    free, _ = xp.cuda.runtime.memGetInfo()
    return int(free) + int(xp.get_default_memory_pool().free_bytes())


def streamed(xp: ModuleType, images: ImageSet, batch: int) -> Take:
    """Read each batch into pinned memory, and copy it to the card while the one before is at work."""
    # Two of each are needed: while one batch is copied to the card, or perturbed there, the next is read.
    shape = (batch, *images.shape[1:])
    count = math.prod(shape)
    try:
        pinned = [xp.cuda.alloc_pinned_memory(count) for _ in range(2)]  # the card can read it by itself
    except xp.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"the host has no memory for two batches of {batch} images that the GPU can read ({words_of(error)}); take "
            "a smaller batch, or allow this user more locked memory (ulimit -l)"
        ) from error
    staging = [np.frombuffer(memory, np.uint8, count).reshape(shape) for memory in pinned]
    copy_events: list[Any] = [None, None]
    turn = 0

    def take(rows: NDArray[np.int64]) -> Array:
        nonlocal turn
        turn = 1 - turn
        if copy_events[turn] is not None:
            copy_events[turn].synchronize()  # the card reads this memory after `set` has returned
        host = staging[turn][: len(rows)]
        images.take(rows, out=host)
        pixels = xp.empty(host.shape, dtype=xp.uint8)
        stream = xp.cuda.get_current_stream()
        pixels.set(host, stream=stream)
        copy_events[turn] = stream.record()
        return pixels

    return take
