"""The roofline of a device: the bytes it moves and the operations it does in a second, measured by a short loop.

A kernel takes at least max(bytes / bandwidth, operations / rate) (Williams, Waterman and Patterson 2009); one whose
data stay in a cache may be faster than the first term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from .streams import blas_threads, finish, point, seconds_between

COPY_BYTES = 1 << 27
"""Bytes that are copied: more than the caches of processors and cards keep."""
SIDE = {"numpy": 1536, "cupy": 8192}
"""Rows and columns of the matrices that are multiplied, by the array module: enough to keep the device busy."""
LOOPS = 5
"""Repetitions, of which the fastest counts."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The limits of a device."""

    bandwidth: float
    """Bytes a second, read and written."""
    rate: float
    """Floating-point operations a second in products of matrices."""

    def seconds(self, moved: float, operations: float) -> float:
        """The least time of a kernel that moves so many bytes and does so many operations."""
        return max(moved / self.bandwidth, operations / self.rate)

    def bound(self, moved: float, operations: float) -> str:
        """The limit of such a kernel: `memory` or `compute`."""
        return "memory" if moved / self.bandwidth >= operations / self.rate else "compute"


def measure_roofline(xp: ModuleType, precision: str, threads: int) -> Roofline:
    """Measure the device of the array module.

    Args:
        xp: NumPy or CuPy.
        precision: on a card other precisions than fp32 are measured by products of halves. On a CPU all are measured in
            float32, since NumPy has fast products of nothing else.
        threads: threads of the products on a CPU. The copy has one, which most of a processor's bandwidth takes.
    """
    dtype = xp.float32 if xp is np or precision == "fp32" else xp.float16
    source, copy = xp.ones(COPY_BYTES, xp.uint8), xp.empty(COPY_BYTES, xp.uint8)
    side = SIDE[xp.__name__]
    matrix_a, matrix_b, product = (xp.ones((side, side), dtype) for _ in range(3))

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(LOOPS + 1):  # the first time warms up
            start = point(xp)
            work()
            end = point(xp)
            finish(xp)
            times.append(seconds_between(xp, start, end))
        return min(times[1:])

    with blas_threads(xp, threads):
        return Roofline(
            bandwidth=2 * COPY_BYTES / fastest(lambda: xp.copyto(copy, source)),
            rate=2 * side**3 / fastest(lambda: xp.matmul(matrix_a, matrix_b, out=product)),
        )
