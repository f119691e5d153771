"""Errors of a GPU, each in one line: of CuPy and the CUDA libraries that it calls, and of ONNX Runtime on CUDA."""

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
"""Bytes of a run for each number of a batch: 16 float32 batches, its buffers and those of the probes (8 at most)."""
COMMITTED = "what was committed stays, and the next run goes on there"


@contextmanager
def device_errors(xp: ModuleType, size: int, batch: int) -> Iterator[None]:
    """`gpu_errors` of a run of batches of RGB images of that size, with a batch that fits where memory is short."""
    message = f"out of memory on the GPU at batch {batch}: its work"
    with gpu_errors(), memory_errors(xp, batch, WORKING * batch * 3 * size * size, message):
        yield


@contextmanager
def memory_errors(xp: ModuleType, batch: int, size: int, message: str) -> Iterator[None]:
    """A lack of CuPy's memory as DeviceError, with a batch that fits; the work takes `size` bytes."""
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
    """Errors of CuPy, and of the CUDA libraries that it calls, as DeviceError: nothing on the GPU can go on."""
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
    """Whether CuPy raised the error: of its memory, a kernel, the driver, or cuFFT, say.

    The classes lie in modules of which each loads a library, and not all of these need be installed.
    """
    return type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends")


def hide_lost_memory() -> None:
    """Show no traceback of CuPy's destructors: on a lost GPU each event and block of memory fails to be freed.

    These errors only follow from the one that ends the run, which is told in a line.
    """
    hook = sys.unraisablehook

    def show(error: sys.UnraisableHookArgs) -> None:
        if error.exc_value is None or not is_of_cupy(error.exc_value):
            hook(error)

    sys.unraisablehook = show


@contextmanager
def first_error(error: BaseException | None) -> Iterator[None]:
    """The block tidies up after `error`, and must not raise another one in its place; without one it has `gpu_errors`.

    CUDA's errors are sticky: after the first one every call fails, also those that release what a session holds.
    """
    try:
        with gpu_errors():
            yield
    except BandlensError:
        if error is None:
            raise


# ONNX Runtime

GPU_ERROR = re.compile(r"CU[A-Z_]+ failure [^;]*|Failed to allocate memory.*")
"""The words about CUDA and its libraries, or about the GPU's memory, amid C++."""
LACK_OF_MEMORY = re.compile(r"out of memory|allocate memory|ALLOC_FAILED")


def onnxruntime_reason(error: Exception) -> str:
    """The error in one line; an error of a GPU is cut to the words about the GPU."""
    line = words_of(error)
    match = GPU_ERROR.search(line)
    return (match[0] if match else line).strip()


def is_of_gpu(error: Exception) -> bool:
    """Whether a session of ONNX Runtime fails for the GPU's sake, and not for its ONNX file's."""
    return bool(GPU_ERROR.search(str(error)) or LACK_OF_MEMORY.search(str(error)))


def memory_advice(error: Exception, otherwise: str) -> str:
    """The advice where an error of ONNX Runtime is about the GPU's memory, or else another."""
    if LACK_OF_MEMORY.search(str(error)):
        return "out of memory on the GPU: take a smaller batch, or fewer checkpoints at a time"
    return otherwise
