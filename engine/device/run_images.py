"""The images of a run: in the host's memory, on the card, or on their way to it."""

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

WORKING = 16
"""Float32 batches that a run needs beside its sessions: its buffers, and those of the probes (8 at a time at most)."""
BUFFERS = 4
"""Those among them that a run has before it looks for a place for its images."""
UPLOAD = 1024
"""The number of images that go to the card at once."""


def pixels_of(xp: ModuleType, images: ImageSet, batch: int) -> Take:
    """The function that takes images of the set for a run.

    On a GPU all of them lie on the card where there is room for them beside the work; else each batch is read into
    pinned memory and copied while the one before is at work.
    """
    if xp is np:
        return images.take
    return resident(xp, images) if fits_memory(images, batch, free_memory(xp)) else streamed(xp, images, batch)


def fits_memory(images: ImageSet, batch: int, free: int) -> bool:
    """Whether the pixels fit into so many bytes beside what a run will need further."""
    return images.nbytes + working_bytes(images.info.size, batch) * (WORKING - BUFFERS) // WORKING <= free


def working_bytes(size: int, batch: int) -> int:
    """Memory of a run for batches of RGB images of that size, without sessions and pixels."""
    return WORKING * batch * 3 * size * size * np.dtype(np.float32).itemsize


def free_memory(xp: ModuleType) -> int:
    """Bytes on the card that may be allocated, those that CuPy keeps for reuse included."""
    free, _ = xp.cuda.runtime.memGetInfo()
    return int(free) + int(xp.get_default_memory_pool().free_bytes())


def resident(xp: ModuleType, images: ImageSet) -> Take:
    """Copy all images to the card, in the current stream, in which they are taken as well."""
    pixels = xp.empty(images.shape, dtype=xp.uint8)
    for first in range(0, len(pixels), UPLOAD):
        rows = np.arange(first, min(first + UPLOAD, len(pixels)))
        pixels[rows[0] : rows[-1] + 1] = xp.asarray(images.take(rows))

    def take(rows: NDArray[np.int64]) -> Array:
        first, last = int(rows[0]), int(rows[-1])
        return pixels[first : last + 1] if last - first + 1 == len(rows) else pixels[xp.asarray(rows)]

    return take


def streamed(xp: ModuleType, images: ImageSet, batch: int) -> Take:
    """Copy each batch to the card as it is taken."""
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
