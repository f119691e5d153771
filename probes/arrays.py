"""The array module: NumPy here, CuPy on a GPU. This is the only module that imports CuPy."""

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
"""An array of the module in use: native in, native out."""


def array_module(name: str) -> ModuleType:
    """`numpy` or `cupy`; EngineError where CuPy or a GPU that it can use is absent."""
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
    """Slices that cover `count` images: one at a time on NumPy, where an image and its spectrum then stay in the
    second-level cache (1.45 times faster than 16 at once), and all at once on a GPU.
    """
    step = 1 if xp is np else max(count, 1)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def unit_range(xp: ModuleType, pixels: Array, out: Array | None = None) -> Array:
    """uint8 [0, 255] to float32 [0, 1] by division, as torchvision's ToTensor does, into `out` where that is given."""
    out = xp.empty(pixels.shape, dtype=xp.float32) if out is None else out
    return xp.divide(pixels, xp.float32(255), out=out)


def constants(xp: ModuleType, matrices: Iterable[np.ndarray]) -> tuple[Array, ...]:
    """Float32 copies to keep. On a GPU other streams may read them once the run that made them has ended."""
    return tuple(xp.asarray(matrix, dtype=xp.float32) for matrix in matrices)


CUDA_OPTIONS = ("-std=c++17",)


@cache
def cuda_function(source: Path, name: str) -> Callable[..., None]:
    """A kernel of a CUDA source, compiled for the GPU once a process; CuPy keeps what is compiled between processes.

    It is called with (blocks along x, y), (threads in a block,) and its arguments, and runs in the current stream.
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
    """The array in host memory."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.get())


# The CUDA kernels of kernels.cu: their arguments, and how they are started on arrays of CuPy

SOURCE = Path(__file__).with_name("kernels.cu")


class Kernel(NamedTuple):
    """How a kernel is called."""

    block: int
    """Threads in a block."""
    arguments: tuple[str, ...]
    """Their types by NumPy's names; a star marks an array."""


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
    # A block is a warp, and reduces a row: a batch has few rows, and they are to be spread over all multiprocessors.
    "reduce_logits": Kernel(32, ("uint16*", "uint16*", *["float32*"] * 3, "int32*", "uint32", "uint32")),
}


def launch(name: str, threads: tuple[int, int], *arguments: Any) -> None:
    """Start a kernel in the current stream, with a thread for each of (along x, along y); at most 65,535 along y.

    None stands for an array that is absent. EngineError where an array is not what the kernel takes.
    """
    kernel = KERNELS[name]
    typed = tuple(_argument(name, *pair) for pair in zip(kernel.arguments, arguments, strict=True))
    if all(threads):  # CuPy would make one block of none
        across, down = threads
        cuda_function(SOURCE, name)((-(-across // kernel.block), down), (kernel.block,), typed)


def _argument(name: str, kind: str, value: Any) -> Any:
    """The value in the type that the kernel reads: it is handed over as bits, so this is the last place to look."""
    if not kind.endswith("*"):
        return np.dtype(kind).type(value)
    if value is not None and (value.dtype != kind[:-1] or not value.flags.c_contiguous):
        raise EngineError(
            f"kernel {name}: got {value.dtype} of strides {value.strides}; it takes contiguous {kind[:-1]}"
        )
    return value
