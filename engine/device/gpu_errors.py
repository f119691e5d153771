"""Convert errors of CuPy, the CUDA libraries and ONNX Runtime to one-line errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ...core.errors import BandlensError, DeviceError, amount
from ...core.untrusted import words_of
from .run_images import free_memory

WORKING = 16 * 4
"""Bytes of GPU memory that a run needs per value of an input batch.

It covers 16 float32 batches: the buffers of the run and those of the probes (8 at most).
"""
COMMITTED = "what was committed stays, and the next run goes on there"
"""Ending of error messages: results committed before the error are not lost."""


@contextmanager
def device_errors(xp: ModuleType, size: int, batch: int) -> Iterator[None]:
    """Apply `gpu_errors` to a run, and suggest a smaller batch size if memory is insufficient.

    Args:
        xp: NumPy or CuPy.
        size: Side of the square RGB images, in pixels.
        batch: Batch size.
    """
    message = f"out of memory on the GPU at batch {batch}: its work"
    with gpu_errors(), memory_errors(xp, batch, WORKING * batch * 3 * size * size, message):
        yield


@contextmanager
def memory_errors(xp: ModuleType, batch: int, size: int, message: str) -> Iterator[None]:
    """Convert CuPy's out-of-memory errors to DeviceError, and suggest a batch size that fits.

    Args:
        xp: NumPy or CuPy.
        batch: Batch size.
        size: Memory that the work needs at this batch size, in bytes.
        message: Beginning of the error message.
    """
    try:
        yield
    except MemoryError as error:
        if not is_of_cupy(error):
            raise
        free = free_memory(xp)
        fits = int(batch * free / size) // 8 * 8
        advice = f"batch = {fits} would fit" if fits else "free memory on the GPU, or run fewer checkpoints at a time"
        raise DeviceError(f"{message} takes {amount(size)}, and {amount(free)} are free; {advice}") from error


@contextmanager
def gpu_errors() -> Iterator[None]:
    """Convert errors of CuPy and of the CUDA libraries to DeviceError.

    The process cannot continue on the GPU after them.
    """
    try:
        yield
    except Exception as error:
        if not is_of_cupy(error):
            raise
        if isinstance(error, MemoryError):
            message = f"{words_of(error)}; try a smaller batch, or fewer checkpoints at a time"
        else:
            message = f"the GPU failed: {words_of(error)}; {COMMITTED}"
        raise DeviceError(message) from error


def is_of_cupy(error: BaseException) -> bool:
    """Return whether CuPy raised the error, for example in its allocator, a kernel, the driver or cuFFT.

    The module name is compared instead of the class, because the error classes are defined in modules that load CUDA
    libraries, and not all of those need to be installed.
    """
    return type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends")


def hide_lost_memory() -> None:
    """Suppress tracebacks from CuPy's destructors. On a lost GPU, freeing each event and memory block fails.

    These errors are consequences of the one that ends the run, which is reported in one line.
    """
    hook = sys.unraisablehook

    def show(error: sys.UnraisableHookArgs) -> None:
        if error.exc_value is None or not is_of_cupy(error.exc_value):
            hook(error)

    sys.unraisablehook = show


@contextmanager
def first_error(error: BaseException | None) -> Iterator[None]:
    """Clean up after `error` without replacing it by an error of the cleanup. Without an error, apply `gpu_errors`.

    CUDA errors are sticky: after the first one every call fails, including those that release the resources of a
    session.
    """
    try:
        with gpu_errors():
            yield
    except BandlensError:
        if error is None:
            raise


# ONNX Runtime

GPU_ERROR = re.compile(r"CU[A-Z_]+ failure [^;]*|Failed to allocate memory.*")
"""Matches the part of a C++ message that concerns CUDA, its libraries or GPU memory."""
LACK_OF_MEMORY = re.compile(r"out of memory|allocate memory|ALLOC_FAILED")
"""Matches messages about insufficient GPU memory."""


def onnxruntime_reason(error: Exception) -> str:
    """Format the error as one line. For a GPU error, only the part about the GPU is kept."""
    line = words_of(error)
    match = GPU_ERROR.search(line)
    return (match[0] if match else line).strip()


def is_of_gpu(error: Exception) -> bool:
    """Return whether a session of ONNX Runtime failed because of the GPU, and not because of its ONNX file."""
    return bool(GPU_ERROR.search(str(error)) or LACK_OF_MEMORY.search(str(error)))


def memory_advice(error: Exception, otherwise: str) -> str:
    """Return advice for an out-of-memory error of ONNX Runtime, or `otherwise` for any other error."""
    if LACK_OF_MEMORY.search(str(error)):
        return "out of memory on the GPU: take a smaller batch, or fewer checkpoints at a time"
    return otherwise
