"""Read the tensors of a pickled file without running anything the file brings along.

A pickle is a program: it names functions and has them called. Here every global it names is either one of the few
that rebuild tensors and plain containers, or an inert stand-in. Nothing is imported on the file's behalf. A stand-in
may be instantiated and filled, for the options, optimizers and schedules that training scripts save beside the weights;
calling one is refused, except for the modules whose calls are known to make plain values, where it makes nothing.
"""

from __future__ import annotations

import collections
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import _utils

from ..errors import CheckpointError

INERT_CALLS = ("argparse", "cox", "datetime", "dill", "numpy", "pathlib")
"""Packages whose calls are answered with a stand-in: options, numpy scalars, dates, dill's own records of types."""


LARGEST_TUPLE = 1_000_000
"""Elements, those of tuples in it included."""


def _refuse(_unpickler: Any) -> None:
    """The one operation that makes room for as many bytes as the file says, whether it has them or not."""
    raise pickle.UnpicklingError("it holds a bytearray, which no weights need")


def _counted(operation: int) -> Callable[[Any], None]:
    """The operation that makes a tuple; one of itself, of itself … has a hash that would never be computed."""
    load = pickle._Unpickler.dispatch[operation]

    def make(unpickler: Any) -> None:
        load(unpickler)
        made = unpickler.stack[-1]
        size = 1 + sum(unpickler.sizes.get(id(member), 1) for member in made)
        if size > LARGEST_TUPLE:
            raise pickle.UnpicklingError(f"it holds a tuple of more than {LARGEST_TUPLE:,} elements")
        unpickler.sizes[id(made)] = size

    return make


_TUPLES = (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
_CAREFUL = {operation[0]: _counted(operation[0]) for operation in _TUPLES} | {pickle.BYTEARRAY8[0]: _refuse}


def read_tensors_only(path: Path) -> Any:
    """The file's containers with their tensors (on the CPU); anything else in them is an inert stand-in.

    Raises CheckpointError for a file that calls functions, pickle.UnpicklingError and others for a damaged one.
    """

    # Python's own: the one in C makes room for any index that a file of twenty bytes speaks of.
    class Unpickler(pickle._Unpickler):
        dispatch = pickle._Unpickler.dispatch | _CAREFUL

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.allowed = _allowed()
            self.sizes: dict[int, int] = {}

        def find_class(self, module: str, name: str) -> Any:
            return self.allowed.get(f"{module}.{name}") or _stand_in(path, f"{module}.{name}")

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    reader = SimpleNamespace(__name__="tensors_only", Unpickler=Unpickler, load=load)
    # torch reads both of its file formats with the unpickler it is given, and resolves storages itself.
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)


def _allowed() -> dict[str, Any]:
    """The globals that are what they say, by full name. Fresh for each file: a pickle may set attributes of them."""
    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _utils._rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": _utils._rebuild_parameter,
        "copyreg._reconstructor": lambda cls, _base, _state: cls.__new__(cls),
        "_codecs.encode": lambda text, _latin1: text.encode("latin1"),
    }
    plain: list[type] = [set, frozenset, complex]
    containers: list[type] = [collections.OrderedDict, collections.defaultdict, collections.Counter, torch.Size]
    functions |= {f"{one.__module__}.{one.__qualname__}": _maker(one) for one in (*plain, *containers)}
    functions |= {f"__builtin__.{one.__name__}": _maker(one) for one in plain}  # as protocol 2 names them
    allowed: dict[str, Any] = {name: functools.partial(function) for name, function in functions.items()}
    return allowed | {str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)}


def _maker(kind: type) -> Callable[..., Any]:
    """Makes objects of a type, but not of a tensor's elements: a small file can describe a tensor of any size."""

    def make(*arguments: Any) -> Any:
        if any(isinstance(argument, torch.Tensor) for argument in arguments):
            raise pickle.UnpicklingError(f"it makes a {kind.__name__} of a tensor")
        return kind(*arguments)

    return make


def _stand_in(path: Path, full_name: str) -> type:
    """A class that can be made, filled and compared, and does nothing."""
    harmless = full_name.partition(".")[0] in INERT_CALLS

    class Meta(type):
        def __call__(cls, *_arguments: Any, **_options: Any) -> Any:
            if not harmless:
                raise CheckpointError(
                    f"{path}: the file wants to call {full_name}, so it is a program and not only weights; "
                    "if you trust its author, add --trust"
                )
            return _stand_in(path, full_name)  # a class again: dill calls functions to make the classes of instances

    def ignore(*_arguments: Any) -> None:
        return None

    fillers = {name: staticmethod(ignore) for name in ("__setstate__", "__setitem__", "append", "extend", "add")}
    return Meta(full_name, (), {"__new__": lambda cls, *_a, **_k: object.__new__(cls), **fillers})
