"""CuPy without a GPU: an array module like CuPy, whose memory is the host's and whose kernels g++ compiled.

Work is done when it is asked for, so an order that is wrong does not show here; names, shapes, addresses, kernels and
the flow of a whole run do. What only a GPU can tell is in the tests marked `gpu`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import finalize

import numpy as np
import pytest

from bandlens.probes.kernels import KERNELS, SOURCE

HEADER = Path(__file__).parent / "cpu_cuda.h"
OPTIONS = "BANDLENS_TEST_CXXFLAGS"
"""Environment variable: more options for g++."""


def absent(what: str, reason: str) -> Any:
    """Skip, unless BANDLENS_REQUIRE names `what`."""
    if what in os.environ.get("BANDLENS_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason)


# Kernels


def compile_kernels(folder: Path, more: str = "") -> ctypes.CDLL:
    """The kernels as g++ compiles them, and `more` C++ behind them."""
    compiler = shutil.which("g++") or absent("kernels", "no g++: install it (apt-get install g++)")
    file, built = folder / "kernels.cpp", folder / "kernels.so"
    exposed = "".join(f"EXPOSE({name})\n" for name in KERNELS)
    file.write_text(f'#include "{HEADER}"\n#include "{SOURCE}"\n{exposed}{more}', encoding="utf-8")
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", *os.environ.get(OPTIONS, "").split()]
    subprocess.run([compiler, *options, file, "-o", built], check=True)
    return ctypes.CDLL(str(built))


def kernel_launcher(library: ctypes.CDLL) -> Callable[[Path, str], Callable[..., None]]:
    """In place of `probes.arrays.cuda_function`."""

    def function(source: Path, name: str) -> Callable[..., None]:
        assert source == SOURCE
        return partial(_launch, getattr(library, f"run_{name}"))

    return function


def _launch(function: Any, blocks: tuple[int, int], threads: tuple[int], arguments: tuple[Any, ...]) -> None:
    values = [_passed(argument) for argument in arguments]
    function(*blocks, *threads, (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values)))


def _passed(argument: Any) -> np.ndarray:
    """What CuPy hands to a kernel: the address of an array, no address for None, a scalar in its own type."""
    if argument is None:
        return np.zeros((), np.uintp)
    return np.array(argument.ctypes.data, np.uintp) if isinstance(argument, np.ndarray) else np.array(argument)


# Arrays and streams


class CardArray(np.ndarray):
    """An array with the address that CuPy's have."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        self[...] = array


class Event:
    def __init__(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass


class Stream:
    """Remembers what is asked for while it captures; the graph does it again."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = id(self)
        self.captured: list[Callable[[], None]] | None = None
        KNOWN[self.ptr] = self

    def ask(self, work: Callable[[], None]) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def record(self) -> Event:
        return Event()

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def synchronize(self) -> None:
        pass

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        work, self.captured = self.captured, None
        assert work, "nothing was asked for while capturing"
        return Graph(work)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


KNOWN: dict[int, Stream] = {}
"""By what TensorRT gets as a stream."""


class Graph:
    launched = 0

    def __init__(self, work: Sequence[Callable[[], None]]) -> None:
        self.work = work

    def launch(self, stream: Stream) -> None:
        Graph.launched += 1
        for step in self.work:
            stream.ask(step)


class OutOfMemoryError(Exception):
    pass


class CudaError(Exception):
    pass


class PretendCupy(ModuleType):
    """NumPy by another name, with what bandlens uses of `cupy.cuda`. `free` bytes can be allocated."""

    __version__ = "0"

    def __init__(self, free: int = 1 << 34) -> None:
        super().__init__("cupy")
        self.free = free
        self.stream = Stream()
        self.cuda = SimpleNamespace(
            Stream=Stream,
            get_current_stream=lambda: self.stream,
            get_elapsed_time=lambda start, end: 1000 * (end.time - start.time),
            alloc=self._alloc,
            alloc_pinned_memory=lambda count: bytearray(count),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CudaError, getDeviceCount=lambda: 1, memGetInfo=lambda: (self.free, 1 << 34)
            ),
            driver=SimpleNamespace(CUDADriverError=CudaError),
            cublas=SimpleNamespace(CUBLASError=CudaError),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> CardArray:
        return np.empty(shape, dtype).view(CardArray)

    def zeros(self, shape: Any, dtype: Any = float) -> CardArray:
        return np.zeros(shape, dtype).view(CardArray)

    def asarray(self, array: Any, dtype: Any = None) -> CardArray:
        return np.array(array, dtype).view(CardArray)  # a copy: it comes from another memory

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_bytes=lambda: 0, total_bytes=lambda: 0)

    def _alloc(self, size: int) -> Any:
        if size > self.free:
            raise OutOfMemoryError
        self.free -= size
        memory = np.empty(max(size, 1), np.uint8)
        finalize(memory, self._freed, size)
        return SimpleNamespace(ptr=memory.ctypes.data, mem=SimpleNamespace(size=size), memory=memory)

    def _freed(self, size: int) -> None:
        self.free += size
