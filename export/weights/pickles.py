"""Parse torch.save files without executing code from the file, and without importing torch.

A pickle is a program that imports functions by name and calls them. Here, each name is resolved to one of a few
functions that rebuild tensors and plain containers, or to an inert stand-in class. Nothing is imported because of the
file. Stand-ins can be instantiated and filled, because training scripts save options, optimizers and schedules with the
weights. Calling a stand-in is an error, except for modules whose calls are known to create plain values. Such a call
has no effect and returns another stand-in.

The file is never passed to torch.load, which would determine the file type again and run TorchScript programs. In
addition, its `weights_only` mode rejects such saved options, and it accepts tensors with flipped bits.

Tensors are described, and their elements remain in the file. `parse_process` runs the parser in a process that starts
fast.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...core.errors import CheckpointError
from ...core.untrusted import first_line

INERT_CALLS = ("argparse", "cox", "datetime", "dill", "numpy", "pathlib")
"""Packages whose calls return a stand-in: options, NumPy scalars, dates, and dill's records of types."""
LEGACY = 0x1950A86A20F9469CFC6C, 1001
"""Contents of the first two pickles in the legacy format: the magic number and the version."""
VERSIONS = range(1, 11)
"""Versions of the zip format that torch reads."""
MAX_GROWTH, MIN_REFUSED_BYTES = 100, 1 << 30
"""Limits on decompression.

An archive is rejected if its members take more than a hundred times its size and more than 1 GiB.
"""
NESTABLE_KEYS = (tuple, frozenset)
"""Types of containers that are hashable and can therefore be keys."""
CHUNK_BYTES = 1 << 20
"""Number of bytes of a storage to read at a time."""


@dataclass(frozen=True, slots=True)
class DType:
    """Element type of a storage, under torch's name."""

    name: str
    itemsize: int


DTYPES = {
    "BFloat16Storage": DType("bfloat16", 2),
    "BoolStorage": DType("bool", 1),
    "ByteStorage": DType("uint8", 1),
    "CharStorage": DType("int8", 1),
    "ComplexDoubleStorage": DType("complex128", 16),
    "ComplexFloatStorage": DType("complex64", 8),
    "DoubleStorage": DType("float64", 8),
    "FloatStorage": DType("float32", 4),
    "HalfStorage": DType("float16", 2),
    "IntStorage": DType("int32", 4),
    "LongStorage": DType("int64", 8),
    "ShortStorage": DType("int16", 2),
}
"""torch's storage classes, for CPU and GPU -> element type."""


@dataclass(eq=False, slots=True)
class Storage:
    """Memory block that tensors are views of, as a range of bytes in a file."""

    dtype: DType
    size: int
    """Size in bytes."""
    offset: int = 0
    """Offset of the first byte in the weights file, or in the file of unpacked storages."""
    is_unpacked: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class TensorView:
    """Tensor as a view of a storage. Offset and strides are in elements."""

    storage: Storage
    offset: int
    size: Sequence[int]
    stride: Sequence[int]


class Size(tuple[int, ...]):
    """Shape of a tensor, in place of torch.Size."""

    __slots__ = ()


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Convert any exception in the block to a CheckpointError about the file."""
    try:
        yield
    except CheckpointError:
        raise
    # Damaged files make parsers raise many types of exceptions, and the advice is always the same.
    except Exception as error:
        # The unpickler looks up opcodes by byte. For other files, such as text, it raises a bare KeyError.
        reason = "it is no file of weights, or damaged" if isinstance(error, KeyError) else first_line(error)
        raise CheckpointError(f"cannot read weights from {path}: {reason}; fetch the file again") from error


def is_archive(head: bytes) -> bool:
    """Return whether a file with these first bytes is a zip archive, the format of torch since version 1.6."""
    return head.startswith(b"PK\x03\x04")


def refuse_other_archives(path: Path) -> None:
    """Reject archives that are not weights.

    Raises:
        CheckpointError: The archive is a TorchScript program or contains NumPy arrays.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path} holds NumPy arrays, not weights of torch; save the module's state_dict() instead"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not weights; save the module's state_dict() instead")


def read_archive(path: Path, unpacked: BinaryIO) -> Any:
    """Parse a file in torch's zip format.

    Checksums of all storages are verified. The elements of compressed storages are written to `unpacked`.

    Args:
        path: The file.
        unpacked: Output file for the elements of compressed storages.

    Returns:
        The containers in the pickle, with tensors described. All other objects are inert stand-ins.

    Raises:
        CheckpointError: The file calls functions.
        pickle.UnpicklingError: The file is damaged. Other exceptions are possible too; see `explain_damage`.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise pickle.UnpicklingError("two of its members have one name")
        size = sum(member.file_size for member in members.values())
        if size > max(MIN_REFUSED_BYTES, MAX_GROWTH * path.stat().st_size):
            raise pickle.UnpicklingError(f"its members would be unpacked to {size:,} bytes, far more than weights are")
        if not any(member.CRC for member in members.values()):  # torch can be configured not to write checksums
            for member in members.values():
                del member.CRC
        if int(archive.read(members["version"])) not in VERSIONS:
            raise pickle.UnpicklingError("its version is none that torch has")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise pickle.UnpicklingError("its numbers are not little-endian")

        def find_storage(key: str, dtype: DType, count: int) -> Storage:
            member = members[f"data/{key}"]
            if count != member.file_size // dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key!r} has another size than its member")
            is_unpacked = member.compress_type != zipfile.ZIP_STORED
            offset = unpacked.tell() if is_unpacked else _find_content(file, member)
            length = 0
            with archive.open(member) as elements:  # zipfile verifies the checksum at the end of the member
                while chunk := elements.read(CHUNK_BYTES):
                    length += len(chunk)
                    if is_unpacked:
                        unpacked.write(chunk)
            if length != member.file_size:
                raise pickle.UnpicklingError(f"storage {key!r} is cut off")
            return Storage(dtype, length, offset, is_unpacked)

        return _Unpickler(io.BytesIO(archive.read(members["data.pkl"])), path, find_storage).load()


def _find_content(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return the offset of a member's first byte.

    It follows the member's local header, whose name and extra field have variable lengths.
    """
    file.seek(member.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + int(name_length) + int(extra_length)


def read_legacy(file: io.BufferedReader, path: Path) -> Any:
    """Parse a file in torch's legacy format, a sequence of pickles followed by the elements of the storages.

    See `read_archive` for the result and exceptions.
    """
    file.seek(0)
    end = path.stat().st_size

    def describe_storage(_key: str, dtype: DType, count: int) -> Storage:
        return Storage(dtype, count * dtype.itemsize)

    def load() -> tuple[Any, dict[str, Storage]]:
        unpickler = _Unpickler(file, path, describe_storage)
        return unpickler.load(), unpickler.storages

    if (load()[0], load()[0]) != LEGACY:
        raise pickle.UnpicklingError("it is no file of torch.save")
    load()  # third pickle: the machine that wrote the file; elements are always little-endian
    content, storages = load()
    keys, _ = load()
    if keys != sorted(storages):
        raise pickle.UnpicklingError("its list of storages is not that of its tensors")
    for key in keys:
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        storage.offset = file.tell()
        if count * storage.dtype.itemsize != storage.size or storage.size > end - storage.offset:
            raise pickle.UnpicklingError(f"storage {key!r} has another size than its tensors say")
        file.seek(storage.size, io.SEEK_CUR)
    if file.read(1):
        raise pickle.UnpicklingError("something follows its last tensor")
    return content


class _StandIn(type):
    """Metaclass of classes that can be instantiated, filled and compared, and that do nothing."""

    path: Path

    def __call__(cls, *_arguments: Any, **_options: Any) -> Any:
        if cls.__name__.partition(".")[0] not in INERT_CALLS:
            raise CheckpointError(
                f"{cls.path}: the file wants to call {cls.__name__}, so it is a program and not only weights; "
                "if you trust its author, add --trust"
            )
        return _stand_in(cls.path, cls.__name__)  # a class, because dill calls functions to create classes


def _stand_in(path: Path, full_name: str) -> type:
    def ignore(*_arguments: Any) -> None:
        return None

    fillers = {name: staticmethod(ignore) for name in ("__setitem__", "append", "extend", "add")}
    return _StandIn(full_name, (), {"path": path, **fillers})


def _drop_state(unpickler: Any) -> None:
    """Discard the attributes to set on an object, because their names could be those of its methods."""
    unpickler.stack.pop()


def _make_object(arguments: int) -> Callable[[Any], None]:
    """Return the operation that instantiates a class and discards this number of arguments from the stack."""

    def make(unpickler: Any) -> None:
        del unpickler.stack[-arguments:]
        unpickler.stack[-1] = _instance(unpickler.stack[-1])

    return make


def _instance(kind: Any, *_arguments: Any) -> Any:
    if not isinstance(kind, _StandIn):
        raise pickle.UnpicklingError(f"it makes an object of a {type(kind).__name__}")
    return object.__new__(kind)  # type: ignore[arg-type]


def _check_keys(keys: Iterable[Any]) -> None:
    """Check that no key of a mapping and no member of a set consists of nested tuples or sets.

    Python does not cache the hash of a tuple, nor the text of tuples and sets, but computes them from all elements each
    time. If each of sixty nested tuples contains the next one twice, hashing never ends in practice. A hundred thousand
    nested tuples overflow the stack. In real files, keys are text and numbers.

    Raises:
        UnpicklingError: A key is nested.
    """
    for key in keys:
        if isinstance(key, NESTABLE_KEYS) and any(isinstance(part, NESTABLE_KEYS) for part in key):
            raise pickle.UnpicklingError("one of its keys is made of nested tuples or sets")


def _checking_keys(operation: int, keys_of: Callable[[Any], Iterable[Any]]) -> Callable[[Any], None]:
    """Return the unpickler's own operation, preceded by a check of the keys that it takes from the stack."""

    def check_and_do(unpickler: Any) -> None:
        _check_keys(keys_of(unpickler))
        pickle._Unpickler.dispatch[operation](unpickler)

    return check_and_do


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in pure Python. The one in C does not call overridden operations."""

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: _drop_state,
        pickle.NEWOBJ[0]: _make_object(1),
        pickle.NEWOBJ_EX[0]: _make_object(2),
        # The stack contains the values since the last mark: alternating keys and values, or the members of a set.
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
        find_storage: Callable[[str, DType, int], Storage],
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.find_storage = find_storage
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        return DTYPES.get(name) or ALLOWED.get(full_name) or _stand_in(self.path, full_name)

    def persistent_load(self, saved_id: Any) -> Any:
        """Return a storage or, in the legacy format, the class of a module."""
        match saved_id:
            case ("storage", DType() as dtype, str(key), _location, int(count), *view) if not any(view) and count >= 0:
                storage = self.storages.get(key) or self.find_storage(key, dtype, count)
                if storage.dtype != dtype or storage.size // dtype.itemsize != count:
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
) -> TensorView:
    """Return a view of a storage, after checking that it lies within the storage.

    torch would instead enlarge the storage with uninitialized elements.
    """
    if metadata:
        raise pickle.UnpicklingError("it holds a tensor that stands for its negative or conjugate")
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("it holds a tensor without a storage")
    shaped = all(isinstance(numbers, (tuple, list)) for numbers in (size, stride))
    if not shaped or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("it holds a tensor of a shape that cannot be")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size // storage.dtype.itemsize:
        raise pickle.UnpicklingError("it holds a tensor that reaches beyond its storage")
    return TensorView(storage, offset, size, stride)


def _size(lengths: Sequence[int] = ()) -> Size:
    if not all(type(length) is int for length in lengths):
        raise pickle.UnpicklingError("it holds a shape that cannot be")
    return Size(lengths)


def _of_pairs(kind: type[Any]) -> Callable[..., Any]:
    """Return a function that creates a mapping from another mapping, from pairs, or without arguments."""

    def make(*arguments: Any) -> Any:
        for argument in arguments:
            if not isinstance(argument, Mapping):
                _check_keys(key for key, _ in argument)
        return kind(*arguments)

    return make


def _of_members(kind: type[Any]) -> Callable[..., Any]:
    """Return a function that creates a set or a counter, from members or without arguments."""

    def make(*arguments: Any) -> Any:
        for argument in arguments:
            _check_keys(argument)
        return kind(*arguments)

    return make


def _device(*kind_and_index: Any) -> str:
    """Return the name of a device, such as cuda:0."""
    if not all(type(part) in (str, int) for part in kind_and_index):  # nested tuples: see `_check_keys`
        raise pickle.UnpicklingError("it holds a device that cannot be")
    return ":".join(map(str, kind_and_index))


ALLOWED: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, _requires_grad, _hooks: tensor,
    "torch.Size": _size,
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
}
"""Full name -> function that replaces the global of this name. Each one creates only plain values."""
