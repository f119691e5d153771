"""Read the tensors of a file of torch.save without running anything the file brings along.

A pickle is a program: it names functions and has them called. Here every global it names is either one of the few
that rebuild tensors and plain containers, or an inert stand-in. Nothing is imported on the file's behalf. A stand-in
may be instantiated and filled, for the options, optimizers and schedules that training scripts save beside the weights;
calling one is refused, except for the modules whose calls are known to make plain values, where it makes nothing.

torch.load reads none of it: it would judge anew what kind of file this is, and run those of TorchScript. Its
`weights_only` refuses such options, and takes a tensor whose bits have flipped.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, UntypedStorage

from ...core.errors import CheckpointError

INERT_CALLS = ("argparse", "cox", "datetime", "dill", "numpy", "pathlib")
"""Packages whose calls are answered with a stand-in: options, numpy scalars, dates, dill's own records of types."""
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


def read_archive(path: Path) -> Any:
    """The containers in an archive's pickle with their tensors (on the CPU); anything else is an inert stand-in.

    Raises CheckpointError for a file that calls functions, pickle.UnpicklingError and others for a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise pickle.UnpicklingError("two of its members have one name")
        if not any(member.CRC for member in members.values()):  # torch was told to leave checksums out
            for member in members.values():
                del member.CRC
        if int(archive.read(members["version"])) not in VERSIONS:
            raise pickle.UnpicklingError("its version is none that torch has")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise pickle.UnpicklingError("its numbers are not little-endian")

        def read_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
            member = members[f"data/{key}"]
            if count != member.file_size // dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key!r} has another size than its member")
            elements = torch.empty(member.file_size, dtype=torch.uint8)
            elements.numpy()[:] = np.frombuffer(archive.read(member), np.uint8)
            return Storage(elements.untyped_storage(), dtype)

        return _Unpickler(io.BytesIO(archive.read(members["data.pkl"])), path, read_storage).load()


def read_legacy(file: io.BufferedReader, path: Path) -> Any:
    """Read the content of a file in torch's older format: pickles in a row, and then the storages' elements.

    See `read_archive` for the result and the errors.
    """
    file.seek(0)
    views: dict[str, memoryview] = {}

    def make_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        elements = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        views[key] = elements.numpy().data
        return Storage(elements.untyped_storage(), dtype)

    def load() -> tuple[Any, dict[str, Storage]]:
        unpickler = _Unpickler(file, path, make_storage)
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


def _drop_state(unpickler: Any) -> None:
    """Drop the attributes that an object would be given: their names may be those of its methods."""
    unpickler.stack.pop()


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


def _check_keys(keys: Iterable[Any]) -> None:
    """UnpicklingError for a key of a mapping, or a member of a set, that is a tuple of tuples.

    Python computes the hash of a tuple anew from all of its parts each time. Sixty levels of a tuple that holds the
    level below twice take longer than anybody waits, without a way to interrupt it, and a hundred thousand levels of
    one part overflow the stack of the process. The keys of real files are text and numbers.
    """
    for key in keys:
        if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
            raise pickle.UnpicklingError("one of its keys is made of nested tuples")


def _checking_keys(operation: int, keys_of: Callable[[Any], Iterable[Any]]) -> Callable[[Any], None]:
    """The unpickler's own operation, after a look at the keys that it takes from the stack."""

    def check_and_do(unpickler: Any) -> None:
        _check_keys(keys_of(unpickler))
        pickle._Unpickler.dispatch[operation](unpickler)

    return check_and_do


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python: that in C calls no operations of ours."""

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: _drop_state,
        pickle.NEWOBJ[0]: _make_object(1),
        pickle.NEWOBJ_EX[0]: _make_object(2),
        # The stack has what came since the last mark: keys and values by turns, or members.
        pickle.SETITEM[0]: _checking_keys(pickle.SETITEM[0], lambda unpickler: unpickler.stack[-2:-1]),
        pickle.SETITEMS[0]: _checking_keys(pickle.SETITEMS[0], lambda unpickler: unpickler.stack[::2]),
        pickle.DICT[0]: _checking_keys(pickle.DICT[0], lambda unpickler: unpickler.stack[::2]),
        pickle.ADDITEMS[0]: _checking_keys(pickle.ADDITEMS[0], lambda unpickler: unpickler.stack),
        pickle.FROZENSET[0]: _checking_keys(pickle.FROZENSET[0], lambda unpickler: unpickler.stack),
    }

    def __init__(
        self,
        file: io.BufferedReader | io.BytesIO,
        path: Path,
        load_storage: Callable[[str, torch.dtype, int], Storage],
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.load_storage = load_storage
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        return DTYPES.get(name) or ALLOWED.get(full_name) or _stand_in(self.path, full_name)

    def persistent_load(self, saved_id: Any) -> Any:
        """A storage, or the class of a module, which the older format names so."""
        match saved_id:
            case ("storage", torch.dtype() as dtype, str(key), _location, int(count), *view) if not any(view):
                storage = self.storages.get(key) or self.load_storage(key, dtype, count)
                if storage.dtype != dtype or storage.memory.nbytes() // dtype.itemsize != count:
                    raise pickle.UnpicklingError(f"storage {key!r} is said to be two things")
                self.storages[key] = storage
                return storage
            case ("module", kind, *_source):
                return kind
        raise pickle.UnpicklingError("it refers to something that is no storage")


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
    shaped = all(isinstance(numbers, (tuple, list)) for numbers in (size, stride))
    if not shaped or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("it holds a tensor of a shape that cannot be")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.memory.nbytes() // storage.dtype.itemsize:
        raise pickle.UnpicklingError("it holds a tensor that reaches beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.memory, offset, tuple(size), tuple(stride))


def _of_pairs(kind: type[Any]) -> Callable[..., Any]:
    """A function that makes a mapping of nothing, of another mapping, or of pairs."""

    def make(*arguments: Any) -> Any:
        for argument in arguments:
            if not isinstance(argument, Mapping):
                _check_keys(key for key, _ in argument)
        return kind(*arguments)

    return make


def _of_members(kind: type[Any]) -> Callable[..., Any]:
    """A function that makes a set, or a count, of nothing or of members."""

    def make(*arguments: Any) -> Any:
        for argument in arguments:
            _check_keys(argument)
        return kind(*arguments)

    return make


def _device(*kind_and_index: Any) -> str:
    """The text of a device, such as cuda:0."""
    if not all(type(part) in (str, int) for part in kind_and_index):  # the text of nested tuples has no end either
        raise pickle.UnpicklingError("it holds a device that cannot be")
    return ":".join(map(str, kind_and_index))


ALLOWED: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, _requires_grad, _hooks: tensor,
    "torch.Size": torch.Size,
    "torch.device": _device,
    "collections.Counter": _of_members(collections.Counter),
    "collections.defaultdict": lambda *_factory: {},
    "collections.OrderedDict": _of_pairs(collections.OrderedDict),
    "copyreg._reconstructor": _instance,
    "_codecs.encode": lambda text, _latin1: text.encode("latin1"),
    **{
        f"{module}.{name}": make
        for module in ("builtins", "__builtin__")
        for name, make in {"set": _of_members(set), "frozenset": _of_members(frozenset), "complex": complex}.items()
    },
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}
"""Full name -> the globals that are what they say, or make a plain value in their place."""
