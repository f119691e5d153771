"""Parse a file of torch.save without running anything the file brings along, and without torch.

A pickle is a program: it names functions and has them called. Here every global it names is either one of the few
that rebuild tensors and plain containers, or an inert stand-in. Nothing is imported on the file's behalf. A stand-in
may be instantiated and filled, for the options, optimizers and schedules that training scripts save beside the weights;
calling one is refused, except for the modules whose calls are known to make plain values, where it makes nothing.

torch.load reads none of it: it would judge anew what kind of file this is, and run those of TorchScript. Its
`weights_only` refuses such options, and takes a tensor whose bits have flipped.

Tensors are described, and their elements stay in the file: `parse_process` parses in a process that starts fast.
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
"""Packages whose calls are answered with a stand-in: options, numpy scalars, dates, dill's own records of types."""
LEGACY = 0x1950A86A20F9469CFC6C, 1001
"""Contents of the first two pickles in the older format: its mark, and its version."""
VERSIONS = range(1, 11)
"""Versions of the zip format that torch reads."""
MAX_GROWTH, MIN_REFUSED_BYTES = 100, 1 << 30
"""An archive whose members have over a hundred times its own bytes is refused, if these are more than a GiB."""
NESTABLE_KEYS = (tuple, frozenset)
"""Containers that can be keys."""
CHUNK_BYTES = 1 << 20
"""Bytes of a storage that are read at once."""


@dataclass(frozen=True, slots=True)
class DType:
    """The type of a storage's elements, by torch's name."""

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
"""The classes that torch names for storages, of the CPU or of a card, and the types of their elements."""


@dataclass(eq=False, slots=True)
class Storage:
    """Memory that tensors are views of, as bytes of a file."""

    dtype: DType
    size: int
    """Bytes."""
    offset: int = 0
    """The place of its first byte in the weights file, or in the file of unpacked storages."""
    is_unpacked: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class TensorView:
    """A tensor; offset and strides count elements of its storage."""

    storage: Storage
    offset: int
    size: Sequence[int]
    stride: Sequence[int]


class Size(tuple[int, ...]):
    """The shape of a tensor, as torch.Size."""

    __slots__ = ()


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raise whatever a parser raises in the block as CheckpointError about the file."""
    try:
        yield
    except CheckpointError:
        raise
    # A damaged file fails in as many ways as there are parsers, and each wants the same answer.
    except Exception as error:
        # The parser of pickles looks an instruction up by its byte, and has no more words than that for a text file.
        reason = "it is no file of weights, or damaged" if isinstance(error, KeyError) else first_line(error)
        raise CheckpointError(f"cannot read weights from {path}: {reason}; fetch the file again") from error


def is_archive(head: bytes) -> bool:
    """Whether a file with these first bytes is a zip archive, as torch has written since version 1.6."""
    return head.startswith(b"PK\x03\x04")


def refuse_other_archives(path: Path) -> None:
    """CheckpointError for a TorchScript program, and for archives of other libraries."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path} holds NumPy arrays, not weights of torch; save the module's state_dict() instead"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not weights; save the module's state_dict() instead")


def read_archive(path: Path, unpacked: BinaryIO) -> Any:
    """The containers in an archive's pickle with its tensors described; anything else is an inert stand-in.

    Checksums of the storages are compared. The elements of compressed ones are written to `unpacked`.

    Raises CheckpointError for a file that calls functions, pickle.UnpicklingError and others for a damaged one.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise pickle.UnpicklingError("two of its members have one name")
        size = sum(member.file_size for member in members.values())
        if size > max(MIN_REFUSED_BYTES, MAX_GROWTH * path.stat().st_size):
            raise pickle.UnpicklingError(f"its members would be unpacked to {size:,} bytes, far more than weights are")
        if not any(member.CRC for member in members.values()):  # torch was told to leave checksums out
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
            with archive.open(member) as elements:  # compares the checksum when it comes to the end
                while chunk := elements.read(CHUNK_BYTES):
                    length += len(chunk)
                    if is_unpacked:
                        unpacked.write(chunk)
            if length != member.file_size:
                raise pickle.UnpicklingError(f"storage {key!r} is cut off")
            return Storage(dtype, length, offset, is_unpacked)

        return _Unpickler(io.BytesIO(archive.read(members["data.pkl"])), path, find_storage).load()


def _find_content(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """The place of a member's first byte, which follows its own header, a name and an extra field of any length."""
    file.seek(member.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + int(name_length) + int(extra_length)


def read_legacy(file: io.BufferedReader, path: Path) -> Any:
    """Parse a file in torch's older format: pickles in a row, and then the storages' elements.

    See `read_archive` for the result and the errors.
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
    load()  # the third pickle tells of the machine that wrote it; elements are little-endian on every machine
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
    """UnpicklingError for a key of a mapping, or a member of a set, that is made of nested tuples or sets.

    Python computes the hash of a tuple, and the text of both, anew from all parts each time. Sixty levels of a tuple
    that holds the level below twice take longer than anybody waits, and a hundred thousand levels of one part overflow
    the stack of the process. The keys of real files are text and numbers.
    """
    for key in keys:
        if isinstance(key, NESTABLE_KEYS) and any(isinstance(part, NESTABLE_KEYS) for part in key):
            raise pickle.UnpicklingError("one of its keys is made of nested tuples or sets")


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
        """A storage, or the class of a module, which the older format names so."""
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
    """A view of a storage; torch would make room for elements beyond its end, and fill them with nothing."""
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
"""Full name -> the globals that are what they say, or make a plain value in their place."""
