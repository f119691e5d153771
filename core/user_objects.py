"""The identity of a function that was made in this process, as in a notebook, and is given to a study as it is.

It covers the source of the function and of the user's helpers and classes that it takes from its module, the pickles of
other values that it takes from there, and the names of libraries. A closure is refused: nobody could tell what its
function had when it was made.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .errors import BandlensError, UsageError
from .untrusted import words_of
from .user_code import UserCode, UserModules, is_of_python, matching_files

PACKAGE = __name__.partition(".")[0]


class UserObject(UserCode):
    """The code of a function object."""

    def __init__(self, what: str, function: Callable[..., Any], folder: Path, uses: Sequence[str]) -> None:
        """UsageError, which begins with `what`, where the identity cannot be told.

        Args:
            what: how errors begin, such as `probe blur`.
            function: the function, or any object that can be called.
            folder: the study's folder, whose files it must not read, but for those that it `uses`.
            uses: patterns of these files.
        """
        self._variables = getattr(function, "__globals__", None)
        files = {file for pattern in uses for file in matching_files(folder, pattern, what)}
        names = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        super().__init__(folder.absolute(), uses, sorted(names), _identity(what, function, sorted(names.items())))

    def owns(self, variables: Mapping[str, Any]) -> bool:
        return variables is self._variables


def _identity(what: str, *parts: Any) -> str:
    content = io.BytesIO()
    try:
        _Identity(content, protocol=5).dump(parts)
    except BandlensError as error:
        raise UsageError(f"{what}: {error}") from None
    except Exception as error:  # pickling calls code of the values
        raise UsageError(
            f"{what}: its function uses a value that cannot be pickled ({words_of(error)}); make the value in the "
            "function, or put both into a file"
        ) from error
    return hashlib.sha256(content.getvalue()).hexdigest()


class _Identity(pickle.Pickler):
    """Writes what the results of a function depend on."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self._places = dict[int, int]()
        """The order in which functions and classes came first, by their id."""

    def persistent_id(self, value: Any) -> Any:
        """A token in place of a module, a function or a class; None for values, which are pickled."""
        if isinstance(value, ModuleType):
            return ("module", value.__name__, *_source_of_module(value))
        if isinstance(value, (set, frozenset)):  # their order differs from one process to the next
            return (type(value).__name__, sorted(value, key=repr))
        if not isinstance(value, (FunctionType, type)):
            wrapped = getattr(value, "__wrapped__", None) if callable(value) else None
            return None if wrapped is None else ("wrapper", type(value), wrapped)
        if _is_of_library(value.__module__):
            return ("library", value.__module__, value.__qualname__)
        if id(value) in self._places:
            return ("again", self._places[id(value)])
        self._places[id(value)] = len(self._places)
        if isinstance(value, type):
            members = (getattr(member, "fget", getattr(member, "__func__", member)) for member in vars(value).values())
            methods = [member for member in members if isinstance(member, FunctionType)]
            return ("class", _source_of(value), value.__bases__, _values_used(methods))
        if value.__closure__:
            names = ", ".join(value.__code__.co_freevars)
            raise UsageError(
                f"{value.__name__} takes {names} from the function that made it, and a closure has no identity; make "
                "them parameters, or put all into a file"
            )
        return ("function", _source_of(value), value.__defaults__, value.__kwdefaults__, _values_used([value]))


def _source_of(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        raise UsageError(f"the source of {value.__qualname__} is not known; put it into a file") from None


def _values_used(functions: Iterable[FunctionType]) -> list[tuple[str, Any]]:
    """Names and values that the code of functions, and of functions in them, takes from their modules or imports."""
    values = dict[str, Any]()
    for function in functions:
        pending = [function.__code__]
        while pending:
            code = pending.pop()
            pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
            for step in dis.get_instructions(code):
                if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in function.__globals__:
                    values[step.argval] = function.__globals__[step.argval]
                elif step.opname == "IMPORT_NAME" and step.argval in sys.modules:
                    values[step.argval] = sys.modules[step.argval]
    return sorted(values.items())


def _is_of_library(module: str | None) -> bool:
    """Whether a module is Python's, bandlens's or a library's, whose versions are no part of an identity."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module == "__main__" or file is None:
        return module != "__main__"
    return is_of_python(file) or str(module).partition(".")[0] == PACKAGE


def _source_of_module(module: ModuleType) -> list[str]:
    """The digest of a user's module and those beside it that it imports; nothing for a library's."""
    file = module.__file__ or ""
    return [] if _is_of_library(module.__name__) or not file.endswith(".py") else [UserModules(Path(file)).digest]
