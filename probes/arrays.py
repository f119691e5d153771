"""Select the array library (NumPy on CPUs, CuPy on GPUs) and launch the CUDA kernels.

This is the only module of the probes that imports CuPy. Probe functions take the array module as their argument `xp`,
so the same code runs on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import DeviceError, EngineError
from ..core.extras import naming_extras
from ..core.untrusted import first_line, words_of

Array = Any
"""An array of the library in use: `numpy.ndarray` or `cupy.ndarray`. Functions return the type that they receive."""


def array_module(name: str) -> ModuleType:
    """Import and return the array module `numpy` or `cupy`.

    Raises:
        EngineError: CuPy is not installed, or it cannot use a GPU on this machine.
    """
    if name == "numpy":
        return np
    try:
        with naming_extras("an engine of GPUs", EngineError):
            import cupy

        cupy.cuda.runtime.getDeviceCount()
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(
            f'CuPy cannot use a GPU here ({first_line(error)}); mend the driver, or set engine = "onnxruntime"'
        ) from error
    module: ModuleType = cupy
    return module


def chunks(xp: ModuleType, count: int) -> Iterator[slice]:
    """Return slices that split `count` images into chunks.

    On NumPy a chunk is one image, because an image and its spectrum then fit into the L2 cache (1.45 times faster than
    chunks of 16 images). On a GPU all images are one chunk.
    """
    step = 1 if xp is np else max(count, 1)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def unit_range(xp: ModuleType, pixels: Array, out: Array | None = None) -> Array:
    """Convert uint8 images in [0, 255] to float32 in [0, 1] by dividing by 255, as torchvision's `ToTensor` does.

    Args:
        xp: Array module of `pixels`.
        pixels: uint8 array of any shape.
        out: float32 array of the same shape for the result. A new array is allocated by default.
    """
    out = xp.empty(pixels.shape, dtype=xp.float32) if out is None else out
    return xp.divide(pixels, xp.float32(255), out=out)


def constants(xp: ModuleType, matrices: Iterable[np.ndarray]) -> tuple[Array, ...]:
    """Copy matrices to float32 arrays of the library in use, for functions that cache them.

    On a GPU, other CUDA streams may read the copies only after the run that created them has finished.
    """
    return tuple(xp.asarray(matrix, dtype=xp.float32) for matrix in matrices)


CUDA_OPTIONS = ("-std=c++17",)
"""Options of the CUDA compiler."""


@cache
def cuda_function(source: Path, name: str) -> Callable[..., None]:
    """Compile a kernel from a CUDA source file.

    The result is cached per process, and CuPy caches compiled code on disk.

    Call the kernel with the grid size (x, y), the block size (threads,) and its arguments. It runs in the current
    stream.

    Raises:
        DeviceError: The source does not compile for this GPU.
    """
    import cupy

    try:
        module = cupy.RawModule(code=source.read_text(encoding="utf-8"), options=CUDA_OPTIONS)
        kernel: Callable[..., None] = module.get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        raise DeviceError(
            f"{source.name} does not compile for this GPU: {words_of(error)}; run: pip install 'bandlens[gpu]'"
        ) from error
    return kernel


def to_numpy(array: Array) -> np.ndarray:
    """Copy an array to host memory. NumPy arrays are returned unchanged."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.get())


# CUDA kernels of kernels.cu: their signatures, and a function that launches them on CuPy arrays.

SOURCE = Path(__file__).with_name("kernels.cu")


class Kernel(NamedTuple):
    """Signature and block size of a CUDA kernel."""

    block: int
    """Threads per block."""
    arguments: tuple[str, ...]
    """NumPy names of the argument types. A trailing star marks an array."""


KERNELS = {
    "random_words": Kernel(256, ("uint32*", "uint64*", "uint64", "uint32", "uint32", "uint32")),
    "unit_normal_fields": Kernel(256, ("float32*", "uint64*", "uint64", "uint32", "uint32")),
    "luma": Kernel(256, ("uint8*", "uint8*", "uint32")),
    "mix_noise": Kernel(256, (*["float32*"] * 3, "float32", "uint64*", "uint64", "uint32", "uint32")),
    "bilateral": Kernel(256, ("float32*", "uint8*", "float32*", "float32", "uint32", "uint32")),
    "fold_quarters": Kernel(256, (*["float32*"] * 4, "uint8*", "uint32", "uint32")),
    "cut_block": Kernel(256, ("float32*", "float32*", *["uint32"] * 6)),
    "join_quarters": Kernel(256, ("float32*", "float32*", "uint8*", *["float32*"] * 4, "uint32", "uint32")),
    "clip_sum": Kernel(256, ("float32*", "float32*", "float32*", "uint32", "uint32")),
    # One block is one warp and reduces one row. A batch has few rows, so small blocks are needed to use all
    # multiprocessors.
    "reduce_logits": Kernel(32, ("uint16*", "uint16*", *["float32*"] * 3, "int32*", "uint32", "uint32")),
}


def launch(name: str, threads: tuple[int, int], *arguments: Any) -> None:
    """Launch a kernel in the current stream.

    Args:
        name: A key of `KERNELS`.
        threads: Number of threads along x and y. At most 65,535 along y, where each block has one thread.
        arguments: Arguments of the kernel. Pass None for an optional array that is not used.

    Raises:
        EngineError: An array has the wrong data type or is not C-contiguous.
    """
    kernel = KERNELS[name]
    typed = tuple(_argument(name, *pair) for pair in zip(kernel.arguments, arguments, strict=True))
    if all(threads):  # for an empty grid CuPy would still launch one block
        across, down = threads
        cuda_function(SOURCE, name)((-(-across // kernel.block), down), (kernel.block,), typed)


def _argument(name: str, kind: str, value: Any) -> Any:
    """Convert an argument to the type in the kernel's signature.

    The kernel reinterprets the memory without conversion, so a wrong data type or layout has to be detected here.
    """
    if not kind.endswith("*"):
        return np.dtype(kind).type(value)
    if value is not None and (value.dtype != kind[:-1] or not value.flags.c_contiguous):
        raise EngineError(
            f"kernel {name}: got {value.dtype} of strides {value.strides}; it takes contiguous {kind[:-1]}"
        )
    return value
