"""CuPy without a GPU: an array module like CuPy, on a card that lies in wait, whose kernels g++ compiled.

Memory is the host's, and NumPy computes; when, the card decides (see deferred_card.py). Names and parameters are those
of the CuPy that is installed: what it lacks, or takes otherwise, is an error here too, and so is an array of NumPy
where CuPy wants one of its own. What only a GPU can tell, `pytest --xp cupy` asks.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from deferred_card import POISON, CudaError, DeferredCard, Event, Memory
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray
from required import miss

from bandlens.probes.arrays import KERNELS, SOURCE

HEADER = Path(__file__).parent / "cpu_cuda.h"
OPTIONS = "BANDLENS_TEST_CXXFLAGS"
"""Environment variable: more options for g++."""


# Kernels


def compile_kernels(folder: Path, code: str = "") -> ctypes.CDLL:
    """The kernels as g++ compiles them, and C++ `code` behind them."""
    compiler = shutil.which("g++") or miss("kernels", "no g++: install it (apt-get install g++)")
    file, library = folder / "kernels.cpp", folder / "kernels.so"
    exposed = "".join(f"EXPOSE({name})\n" for name in KERNELS)
    file.write_text(f'#include "{HEADER}"\n#include "{SOURCE}"\n{exposed}{code}', encoding="utf-8")
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", *os.environ.get(OPTIONS, "").split()]
    subprocess.run([compiler, *options, file, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def kernel_launcher(library: ctypes.CDLL) -> Callable[[Path, str], Callable[..., None]]:
    """This stands in place of `probes.arrays.cuda_function`."""

    def function(source: Path, name: str) -> Callable[..., None]:
        assert source == SOURCE
        return partial(_launch, getattr(library, f"run_{name}"))

    return function


def _launch(function: Any, blocks: tuple[int, int], threads: tuple[int], arguments: tuple[Any, ...]) -> None:
    values = [_pass_argument(argument) for argument in arguments]
    [card, *_] = [argument.card for argument in arguments if isinstance(argument, CardArray)]

    def start() -> None:
        places = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        if function(*blocks, *threads, places):
            raise CudaError("cudaErrorIllegalAddress")

    card.ask(start, WORK_SECONDS)


def _pass_argument(argument: Any) -> np.ndarray:
    """CuPy's argument to a kernel: the address of an array, no address for None, a scalar in its own type."""
    if argument is None:
        return np.zeros((), np.uintp)
    return np.array(argument.data.ptr, np.uintp) if isinstance(argument, CardArray) else np.array(argument)


# Names and parameters


@cache
def real() -> ModuleType:
    """CuPy itself, which can be imported without a GPU."""
    try:
        import cupy
    except ImportError as error:
        miss("kernels", f"no CuPy ({error}); run: pip install '.[gpu-checks]'")
    module: ModuleType = cupy
    return module


@cache
def signature_of(function: Any, method: bool = False) -> inspect.Signature:
    """The parameters of a function of CuPy; compiled ones have them in the first line of their documentation."""
    try:
        return inspect.signature(function)
    except ValueError:
        line = function.__doc__.strip().splitlines()[0].replace("\\", "")
        [declared] = re.findall(r"^[\w.]*\w\((.*?)\)(?: ->.*)?$", line)
        untyped = re.sub(r"\b[\w.]+ (\w+)", r"\1", declared)
        return inspect.signature(eval(f"lambda {untyped}: None"))


@cache
def check_call(function: Any, count: int, *names: str) -> None:
    """TypeError unless the function takes so many arguments, and others by these names."""
    signature_of(function).bind(*range(count), **dict.fromkeys(names))


# Arrays


ZEROS = np.zeros(1 << 28, np.uint8)
"""Zeros that stand for memory of the card until the work on it is done. No page of them is ever written."""
ZEROS.flags.writeable = False
ZEROS_ADDRESS = ZEROS.ctypes.data  # asking for an address takes longer than to compute with a small array


class CardArray(NDArrayOperatorsMixin):
    """An array of CuPy as far as bandlens uses it."""

    def __init__(self, card: DeferredCard, memory: Memory, buffer: NDArray[Any], offset: int = 0) -> None:
        self.card, self.memory = card, memory
        self.buffer = buffer
        """Its place, whatever lies there before the card has come to it."""
        self.place = Place(buffer, offset)

    @classmethod
    def new(cls, card: DeferredCard, like: NDArray[Any]) -> CardArray:
        memory = Memory(card, like.nbytes)
        strides = None if like.flags.c_contiguous else np.empty_like(like).strides
        return cls(card, memory, np.ndarray(like.shape, like.dtype, memory.bytes, strides=strides))

    shape = property(lambda self: self.buffer.shape)
    dtype = property(lambda self: self.buffer.dtype)
    ndim = property(lambda self: self.buffer.ndim)
    size = property(lambda self: self.buffer.size)
    nbytes = property(lambda self: self.buffer.nbytes)
    strides = property(lambda self: self.buffer.strides)
    flags = property(lambda self: self.buffer.flags)
    data = property(lambda self: SimpleNamespace(ptr=self.buffer.ctypes.data))
    T = property(lambda self: self.transpose())

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, slices: Any) -> CardArray:
        return compute(self.card, lambda array, key: array[key], self, slices)

    def __setitem__(self, slices: Any, value: Any) -> None:
        buffer, key, new = self.buffer, argument_function(slices), argument_function(value)
        self.card.ask(lambda: buffer.__setitem__(key(Place.content), new(Place.content)), WORK_SECONDS)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> CardArray:
        assert method == "__call__"
        [out] = options.pop("out", (None,))
        check_call(getattr(real(), ufunc.__name__), len(inputs), *options, "out")
        return compute(self.card, ufunc, *inputs, **options, out=out)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getattr__(self, name: str) -> Callable[..., CardArray]:
        cupy_method = getattr(real().ndarray, name)

        def method(*arguments: Any, **options: Any) -> CardArray:
            check_call(cupy_method, 1 + len(arguments), *options)
            work = lambda array, *values, **keywords: getattr(array, name)(*values, **keywords)  # noqa: E731
            return compute(self.card, work, self, *arguments, **options)

        return method

    def get(self, stream: Any = None) -> NDArray[Any]:
        stream = stream or self.card.current()
        content = np.empty(self.shape, self.dtype)
        stream.put(lambda: np.copyto(content, self.buffer))
        stream.synchronize()
        return content

    def set(self, arr: NDArray[Any], stream: Any = None) -> None:
        """The host's memory is read when the card comes to it, as pinned memory is."""
        assert (self.shape, self.dtype, True) == (arr.shape, arr.dtype, self.flags.c_contiguous)
        buffer = self.buffer
        (stream or self.card.current()).put(lambda: np.copyto(buffer, arr))

    def item(self) -> Any:
        return self.get().item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())


class Place(NamedTuple):
    """An array as queued work knows it: by an address. The memory belongs to somebody else."""

    buffer: NDArray[Any]
    offset: int
    """Bytes from the beginning of its memory."""

    def content(self) -> NDArray[Any]:
        return self.buffer

    def zeros(self) -> NDArray[Any]:
        """An array of the same layout at the same place of ZEROS, for a try beforehand."""
        return np.ndarray(self.buffer.shape, self.buffer.dtype, ZEROS, self.offset, self.buffer.strides)


def argument_function(value: Any) -> Callable[[Callable[[Place], Any]], Any]:
    """An argument as a function of what to take for each array in it. NumPy's arrays are refused."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, CardArray):
        place = value.place
        return lambda take: take(place)
    if isinstance(value, (tuple, list)):
        kind, parts = type(value), [argument_function(part) for part in value]
        return lambda take: kind(part(take) for part in parts)
    return lambda _: value


def compute(card: DeferredCard, function: Callable[..., Any], *arguments: Any, out: Any = None, **options: Any) -> Any:
    """The array of NumPy's function: a view at once, anything else in an array that the card fills.

    A try with zeros tells which, and its shape and type, so these must not depend on values.
    """
    arguments_with = argument_function(arguments)
    with np.errstate(all="ignore"):
        trial = np.asanyarray(function(*arguments_with(Place.zeros), **options))
    offset = -1 if trial.flags.owndata else trial.ctypes.data - ZEROS_ADDRESS
    if out is None and 0 <= offset < len(ZEROS):
        memory = next(argument for argument in arguments if isinstance(argument, CardArray)).memory
        buffer = np.ndarray(trial.shape, trial.dtype, memory.bytes, offset, trial.strides)
        return CardArray(card, memory, buffer, offset)
    fresh, array = out is None, CardArray.new(card, trial) if out is None else out
    assert (array.shape, np.can_cast(trial.dtype, array.dtype, "same_kind")) == (trial.shape, True)
    buffer = array.buffer

    def work() -> None:
        with np.errstate(all="ignore"):
            if fresh:
                buffer[...] = function(*arguments_with(Place.content), **options)
            else:
                function(*arguments_with(Place.content), **options, out=buffer)

    card.ask(work, WORK_SECONDS)
    return array


def illegal() -> None:
    raise CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered")


WORK_SECONDS = 1e-6
"""Seconds that a small piece of work takes: no work takes no time."""


# The module


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


class PretendCupy(ModuleType):
    """CuPy on a card of which `free` bytes can be allocated, and which draws its orders by `seed`; without one it does
    at once what it is asked for.
    """

    __version__ = "0"
    ndarray = CardArray

    def __init__(self, free: int = 1 << 34, seed: int | None = None) -> None:
        super().__init__("cupy")
        self.free = free
        self.pooled = 0
        """Bytes that nobody holds any more, and that CuPy keeps for itself."""
        self.card = card = DeferredCard(seed)
        self.cuda = SimpleNamespace(
            **vars(card.cuda),
            get_elapsed_time=elapsed_time,
            alloc=self._alloc,
            alloc_pinned_memory=lambda size: np.full(size, POISON, np.uint8),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CudaError, getDeviceCount=lambda: self._answer(1), memGetInfo=self._memory
            ),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
        )

    def __getattr__(self, name: str) -> Any:
        return self._like(getattr(real(), name), getattr(np, name))

    def _like(self, origin: Any, twin: Any) -> Any:
        if isinstance(origin, ModuleType):
            names = [name for name in dir(origin) if not name.startswith("_") and hasattr(twin, name)]
            return SimpleNamespace(**{name: self._like(getattr(origin, name), getattr(twin, name)) for name in names})
        if isinstance(twin, type) or not callable(twin):
            return twin

        def function(*arguments: Any, **options: Any) -> CardArray:
            check_call(origin, len(arguments), *options)
            return compute(self.card, twin, *arguments, **options)

        return function

    def empty(self, shape: Any, dtype: Any = float) -> CardArray:
        if (nbytes := int(np.prod(shape)) * np.dtype(dtype).itemsize) > self.free + self.pooled:
            raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes")
        return CardArray.new(self.card, np.ndarray(shape, dtype, ZEROS))

    def RawKernel(self, code: str, name: str) -> Callable[..., None]:  # noqa: N802 - CuPy's name
        """A kernel of another's than bandlens: it writes nowhere."""

        def start(*_: Any) -> None:
            self.card.ask(illegal)

        return start

    def empty_like(self, prototype: CardArray) -> CardArray:
        return CardArray.new(self.card, prototype.buffer)

    def asarray(self, a: Any, dtype: Any = None) -> CardArray:
        """Memory of the host is read at once: CuPy copies it into pinned memory of its own, for the card to read."""
        if isinstance(a, CardArray):
            return a.astype(a.dtype if dtype is None else dtype, copy=False)
        staged = np.array(a, dtype)
        array = CardArray.new(self.card, staged)
        array.set(staged)
        return array

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(
            free_bytes=lambda: self.pooled, total_bytes=lambda: 0, free_all_blocks=self._free_all_blocks
        )

    def _answer(self, value: Any) -> Any:
        self.card.check()
        return value

    def _memory(self) -> tuple[int, int]:
        return self._answer((self.free, 1 << 34))

    def _alloc(self, size: int) -> Any:
        self.card.check()
        if size > self.free:
            self._free_all_blocks()
        if size > self.free:
            raise OutOfMemoryError
        self.free -= size
        memory = Memory(self.card, size)
        finalize(memory, self._freed, size)
        return SimpleNamespace(ptr=memory.bytes.ctypes.data, mem=SimpleNamespace(size=size), memory=memory)

    def _freed(self, size: int) -> None:
        self.pooled += size

    def _free_all_blocks(self) -> None:
        self.card.check()
        self.free, self.pooled = self.free + self.pooled, 0


def elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    if not (start_event.reached and end_event.reached):
        raise CudaError("cudaErrorNotReady: device not ready")
    return 1000 * (end_event.time - start_event.time)
