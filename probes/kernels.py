"""The CUDA kernels of kernels.cu: their arguments, and how they are started on arrays of CuPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import EngineError
from .arrays import cuda_function

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
