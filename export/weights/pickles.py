"""Read the tensors of a file of torch.save without running anything the file brings along.

A pickle is a program: it names functions and has them called. Here every global it names is either one of the few
that rebuild tensors and plain containers, or an inert stand-in. Nothing is imported on the file's behalf. A stand-in
may be instantiated and filled, for the options, optimizers and schedules that training scripts save beside the weights;
calling one is refused, except for the modules whose calls are known to make plain values, where it makes nothing.

torch.load reads none of it: it would judge anew what kind of file this is, and run those of TorchScript.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage

from ...core.errors import CheckpointError
from .archives import Span, fill_from_member, read_member

INERT_CALLS = ("argparse", "cox", "datetime", "dill", "numpy", "pathlib")
"""Packages whose calls are answered with a stand-in: options, numpy scalars, dates, dill's own records of types."""
LARGEST_TUPLE = 1000
"""Elements, those of tuples in it included. A larger one becomes a list, which is no key: a key's hash is computed each
time that it is used, and by a function of C that calls itself for a tuple in a tuple."""
COPIED = 1_000_000
"""Elements that a pickle may have copied from one container to another, besides one for each of its bytes."""
MOST_READS = 5_000_000
"""Times that a pickle may be read from: once for each operation and each of its arguments. A tensor takes some 50."""
LEGACY = 0x1950A86A20F9469CFC6C, 1001
"""Contents of the first two pickles in the older format: its mark, and its version."""
VERSIONS = range(1, 11)
"""Versions of the zip format that torch reads."""
DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
"""The classes that torch names for storages, of the CPU or of a card, and the types of their elements."""


class Storage(NamedTuple):
    """Memory that tensors are views of."""

    memory: UntypedStorage
    dtype: torch.dtype


def read_archive(file: io.BufferedReader, spans: Mapping[str, Span], path: Path) -> Any:
    """The containers in an archive's pickle with their tensors (on the CPU); anything else is an inert stand-in.

    `path` names the file in errors. Raises CheckpointError for a file that calls functions, pickle.UnpicklingError and
    others for a damaged one.
    """

    def span_of(name: str) -> Span:
        if name not in spans:
            raise pickle.UnpicklingError(f"its archive has no member {name!r}")
        return spans[name]

    if int(read_member(file, span_of("version"))) not in VERSIONS:
        raise pickle.UnpicklingError("its version is none that torch has")
    order = read_member(file, spans["byteorder"]).decode() if "byteorder" in spans else "little"
    if order not in ("little", "big"):
        raise pickle.UnpicklingError(f"its byte order is {order!r}")

    def read_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        span = span_of(f"data/{key}")
        if count != span.size // dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key!r} has another size than its member")
        elements = torch.empty(span.size, dtype=torch.uint8)
        fill_from_member(file, span, elements.numpy().data)
        memory = elements.untyped_storage()
        if order != sys.byteorder:
            memory.byteswap(dtype)  # type: ignore[no-untyped-call]
        return Storage(memory, dtype)

    program = read_member(file, span_of("data.pkl"))
    return _Unpickler(io.BytesIO(program), path, len(program), read_storage).load()


def read_legacy(file: io.BufferedReader, path: Path) -> Any:
    """Read the content of a file in torch's older format: pickles in a row, and then the storages' elements.

    See `read_archive` for the result and the errors.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    views: dict[str, memoryview] = {}
    room = size

    def make_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        nonlocal room
        length = count * dtype.itemsize
        room -= length
        if count < 0 or room < 0:
            raise pickle.UnpicklingError("it is shorter than its tensors")
        elements = torch.empty(length, dtype=torch.uint8)
        views[key] = elements.numpy().data
        return Storage(elements.untyped_storage(), dtype)

    def load() -> tuple[Any, dict[str, Storage]]:
        unpickler = _Unpickler(file, path, size, make_storage)
        return unpickler.load(), unpickler.storages

    if (load()[0], load()[0]) != LEGACY:
        raise pickle.UnpicklingError("it is no file of torch.save")
    load()  # the third pickle tells of the machine that wrote it; elements are little-endian on every machine
    content, storages = load()
    keys, _ = load()
    if keys != sorted(storages):
        raise pickle.UnpicklingError("its list of storages is not that of its tensors")
    for key in keys:
        memory, dtype = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count * dtype.itemsize != memory.nbytes() or file.readinto(views[key]) != memory.nbytes():
            raise pickle.UnpicklingError(f"storage {key!r} has another size than its tensors say")
        if sys.byteorder == "big":
            memory.byteswap(dtype)  # type: ignore[no-untyped-call]
    if file.read(1):
        raise pickle.UnpicklingError("something follows its last tensor")
    return content


class _StandIn(type):
    """The type of the classes that can be made, filled and compared, and do nothing."""

    path: Path

    def __call__(cls, *_arguments: Any, **_options: Any) -> Any:
        if cls.__name__.partition(".")[0] not in INERT_CALLS:
            raise CheckpointError(
                f"{cls.path}: the file wants to call {cls.__name__}, so it is a program and not only weights; "
                "if you trust its author, add --trust"
            )
        return _stand_in(cls.path, cls.__name__)  # a class again: dill calls functions to make the classes of instances


def _stand_in(path: Path, full_name: str) -> type:
    def ignore(*_arguments: Any) -> None:
        return None

    fillers = {name: staticmethod(ignore) for name in ("__setitem__", "append", "extend", "add")}
    return _StandIn(full_name, (), {"path": path, **fillers})


def _refuse(what: str) -> Callable[[Any], None]:
    def refuse(_unpickler: Any) -> None:
        raise pickle.UnpicklingError(f"it holds {what}, which no weights need")

    return refuse


def _make_tuple(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The operation that makes a tuple, or a list of what would be a tuple of more than LARGEST_TUPLE elements."""

    def make(unpickler: Any) -> None:
        load(unpickler)
        made, sizes = unpickler.stack[-1], unpickler.sizes
        size = 1 + sum(sizes.get(id(member), len(member)) if isinstance(member, tuple) else 1 for member in made)
        if size > LARGEST_TUPLE:
            unpickler.stack[-1] = list(made)
        else:
            sizes[id(made)] = size

    return make


def _load_number(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The operation that reads a number as text, unless it has more than 255 bytes."""

    def load_number(unpickler: Any) -> None:
        load(unpickler)
        if unpickler.stack[-1].bit_length() > 8 * 255:
            _refuse_long(unpickler)

    return load_number


def _fill(load: Callable[[Any], None], depth: int) -> Callable[[Any], None]:
    """The operation that fills what lies so deep on the stack, or below the mark (0), if it is a container."""

    def fill(unpickler: Any) -> None:
        filled = unpickler.stack[-depth] if depth else unpickler.metastack[-1][-1]
        # A tensor has methods of the same names, which compute with all of its elements.
        if not isinstance(filled, (dict, list, set, _StandIn)) and not isinstance(type(filled), _StandIn):
            raise pickle.UnpicklingError(f"it changes a {type(filled).__name__}")
        load(unpickler)

    return fill


def _drop_state(unpickler: Any) -> None:
    """Drop the attributes that an object would be given: their names may be those of its methods."""
    unpickler.stack.pop()


def _call(unpickler: Any) -> None:
    """Call a function with a tuple of arguments: to unpack a tensor would make one of each of its elements."""
    arguments = unpickler.stack[-1]
    if not isinstance(arguments, (tuple, list)) or len(arguments) > LARGEST_TUPLE:
        raise pickle.UnpicklingError(f"it calls a function with a {type(arguments).__name__}")
    _LOADERS[pickle.REDUCE[0]](unpickler)


def _make_object(arguments: int) -> Callable[[Any], None]:
    """The operation that makes an object of a class; so many values on the stack are arguments, which are dropped."""

    def make(unpickler: Any) -> None:
        del unpickler.stack[-arguments:]
        unpickler.stack[-1] = _instance(unpickler.stack[-1])

    return make


def _instance(kind: Any, *_arguments: Any) -> Any:
    if not isinstance(kind, _StandIn):
        raise pickle.UnpicklingError(f"it makes an object of a {type(kind).__name__}")
    return object.__new__(kind)  # type: ignore[arg-type]


# The hash and the digits of such a number are computed anew each time.
_refuse_long = _refuse("an integer of more than 255 bytes")
_LOADERS = pickle._Unpickler.dispatch
_OPERATIONS = {
    **{code[0]: _make_tuple(_LOADERS[code[0]]) for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)},
    **{code[0]: _fill(_LOADERS[code[0]], 0) for code in (pickle.APPENDS, pickle.SETITEMS, pickle.ADDITEMS)},
    pickle.APPEND[0]: _fill(_LOADERS[pickle.APPEND[0]], 2),
    pickle.SETITEM[0]: _fill(_LOADERS[pickle.SETITEM[0]], 3),
    # A frame lets a reader take many operations to memory at once. Here each is read from the file, and counted.
    pickle.FRAME[0]: lambda unpickler: unpickler.read(8),
    pickle.BUILD[0]: _fill(_drop_state, 2),
    pickle.REDUCE[0]: _call,
    pickle.NEWOBJ[0]: _make_object(1),
    pickle.NEWOBJ_EX[0]: _make_object(2),
    # It makes room for as many bytes as the file says, whether the file has them or not.
    pickle.BYTEARRAY8[0]: _refuse("a bytearray"),
    pickle.LONG4[0]: _refuse_long,
    pickle.LONG[0]: _load_number(_LOADERS[pickle.LONG[0]]),
    pickle.INT[0]: _load_number(_LOADERS[pickle.INT[0]]),
}


class _CountedReads:
    """A file that can be read from MOST_READS times: a pickle of many small values takes Python long to build."""

    def __init__(self, file: io.BufferedReader | io.BytesIO, path: Path) -> None:
        self.file, self.path, self.reads_left = file, path, MOST_READS

    def _count(self) -> None:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise CheckpointError(
                f"{self.path} holds millions of values beside its tensors; save the module's state_dict() alone"
            )

    def read(self, size: int) -> bytes:
        self._count()
        return self.file.read(size)

    def readline(self) -> bytes:
        self._count()
        return self.file.readline()


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler: the one in C makes room for any index that a file of twenty bytes speaks of."""

    dispatch = _LOADERS | _OPERATIONS

    def __init__(
        self,
        file: io.BufferedReader | io.BytesIO,
        path: Path,
        size: int,
        load_storage: Callable[[str, torch.dtype, int], Storage],
    ) -> None:
        super().__init__(_CountedReads(file, path), encoding="utf-8")
        self.path = path
        self.load_storage = load_storage
        self.storages: dict[str, Storage] = {}
        self.copies_left = COPIED + size
        self.sizes: dict[int, int] = {}
        self.allowed = self._allowed()

    def _allowed(self) -> dict[str, Any]:
        """The globals that are what they say, by full name."""
        functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
            "torch._utils._rebuild_parameter": lambda tensor, _requires_grad, _hooks: tensor,
            "torch.Size": _make_size,
            "collections.Counter": partial(self._make, collections.Counter),
            "collections.defaultdict": lambda *_factory: {},  # one in another would be taken apart by recursion
            "collections.OrderedDict": self._make_ordered,
            "copyreg._reconstructor": _instance,
            "_codecs.encode": lambda text, _latin1: self._make(str.encode, text, "latin1"),
        }
        for kind in (set, frozenset, complex):
            functions[f"builtins.{kind.__name__}"] = functions[f"__builtin__.{kind.__name__}"] = partial(
                self._make, kind
            )
        dtypes = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
        return functions | dtypes

    def _make(self, kind: Callable[..., Any], *arguments: Any) -> Any:
        """An object of few enough elements, and not of a tensor's: a small file can describe a tensor of any size."""
        if any(isinstance(argument, Tensor) for argument in arguments):
            raise pickle.UnpicklingError(f"it makes a {kind.__name__} of a tensor")
        self.copies_left -= sum(len(argument) for argument in arguments if isinstance(argument, Sized))
        if self.copies_left < 0:
            raise pickle.UnpicklingError("it copies more elements than it holds")
        return kind(*arguments)

    def _make_ordered(self, pairs: Any = ()) -> Any:
        if not isinstance(pairs, (tuple, list)) or not all(isinstance(pair, (tuple, list)) for pair in pairs):
            raise pickle.UnpicklingError("it makes an OrderedDict of what are no pairs")
        return self._make(collections.OrderedDict, pairs)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        return DTYPES.get(name) or self.allowed.get(full_name) or _stand_in(self.path, full_name)

    def persistent_load(self, saved_id: Any) -> Any:
        """A storage, or the class of a module, which the older format names so."""
        match saved_id:
            case ("storage", torch.dtype() as dtype, str(key), _location, int(count), *view):
                storage = self.storages.get(key) or self.load_storage(key, dtype, count)
                if storage.dtype != dtype or storage.memory.nbytes() // dtype.itemsize != count:
                    raise pickle.UnpicklingError(f"storage {key!r} is said to be two things")
                self.storages[key] = storage
                return _part_of(storage, *view[0][1:]) if view and view[0] is not None else storage
            case ("module", kind, *_source):
                return kind
        raise pickle.UnpicklingError("it refers to something that is no storage")


def _part_of(storage: Storage, offset: int, count: int) -> Storage:
    """Some of a storage's elements: until 2017 storages could be parts of others."""
    start, stop = offset * storage.dtype.itemsize, (offset + count) * storage.dtype.itemsize
    if not 0 <= start <= stop <= storage.memory.nbytes():
        raise pickle.UnpicklingError("it has a part of a storage that lies outside of it")
    return Storage(storage.memory[start:stop], storage.dtype)


def _make_size(size: Iterable[int] = ()) -> torch.Size:
    """A shape, which is a tuple, and so has no more elements than these."""
    if not isinstance(size, (tuple, list)) or len(size) > LARGEST_TUPLE:
        raise pickle.UnpicklingError("it has a shape of too many dimensions")
    return torch.Size(size)


def _rebuild_tensor(
    storage: Storage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    _requires_grad: bool = False,
    _hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """A view of a storage; torch would make room for elements beyond its end, and fill them with nothing."""
    if metadata:
        raise pickle.UnpicklingError("it holds a tensor that stands for its negative or conjugate")
    shaped = all(isinstance(numbers, (tuple, list)) and len(numbers) <= LARGEST_TUPLE for numbers in (size, stride))
    if not shaped or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("it holds a tensor of a shape that cannot be")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.memory.nbytes() // storage.dtype.itemsize:
        raise pickle.UnpicklingError("it holds a tensor that reaches beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.memory, offset, tuple(size), tuple(stride))
