"""Load the images of a run, and copy them to the GPU in the background."""

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
"""Maps (k,) indices to (k, 3, size, size) uint8 images, in the array module of the run."""


def free_memory(xp: ModuleType) -> int:
    """Return the GPU memory that can be allocated, in bytes. Free blocks in CuPy's pool are included."""
    free, _ = xp.cuda.runtime.memGetInfo()
    return int(free) + int(xp.get_default_memory_pool().free_bytes())


def streamed(xp: ModuleType, images: ImageSet, batch: int) -> Take:
    """Return a loader that copies each batch to the GPU from pinned memory while earlier work still runs there."""
    # Two staging buffers alternate: while the GPU still copies one batch from its buffer, the next batch is read into
    # the other.
    shape = (batch, *images.shape[1:])
    count = math.prod(shape)
    try:
        # The GPU can copy from pinned memory without the CPU.
        pinned = [xp.cuda.alloc_pinned_memory(count) for _ in range(2)]
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
            # `set` returns before the copy is complete, so wait before overwriting the buffer.
            copy_events[turn].synchronize()
        host = staging[turn][: len(rows)]
        images.take(rows, out=host)
        pixels = xp.empty(host.shape, dtype=xp.uint8)
        stream = xp.cuda.get_current_stream()
        pixels.set(host, stream=stream)
        copy_events[turn] = stream.record()
        return pixels

    return take
