"""Import, inspect and call a custom function, such as a custom probe, in this process.

    function = user_function("measure worst", "worst", table, folder, "predicted", StoreError)
    settings = settings_of(function.parameters, RESERVED, table, function)   # UsageError for unusable parameters
    with function.at_work():
        values = function(predicted=…, quantile=0.1)                         # StoreError if the function fails

Every exception of the function, including SystemExit and GeneratorExit, becomes a one-line error with the file and line
number in the custom code. Only a KeyboardInterrupt in the main thread is passed on, because the user may have pressed
Ctrl-C. Python output that the function prints is redirected to standard error, because standard output is reserved for
results. Global state of the process that the function changes, such as torch's default dtype, is not restored.
"""

from __future__ import annotations

import faulthandler
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import BandlensError, UsageError
from ..jobs import step
from ..untrusted import one_line
from .load import TABLE_KEYS, Code, MemoryCode, load_file, parse_declared_files, parse_version

log = logging.getLogger("bandlens")


def user_function(
    heading: str, name: str, table: Mapping[str, Any], folder: Path, first: str, error: type[BandlensError]
) -> UserFunction:
    """Import a custom function.

    Args:
        heading: First words of error messages, such as `probe blur`.
        name: Name of the function in its file, unless the table has another name under `function`.
        table: Table of the function in the study. It has a `file`, or a `function` that is a Python object. `files` and
            `version` are optional.
        folder: Folder of the study, to which `file` is relative.
        first: Name of the first parameter in the example of an error message.
        error: Class of the errors that calls of the function raise.

    Raises:
        UsageError: The file cannot be loaded, has no such function, or the function cannot be identified.
    """
    reference = table.get("function") or name
    files, version = parse_declared_files(heading, table), parse_version(heading, table)
    if callable(reference):
        code = MemoryCode(heading, reference, folder, files, version)
        return UserFunction(heading, getattr(reference, "__name__", name), None, code, reference, error)
    file = folder / str(table["file"])
    if not file.is_file():
        raise UsageError(f"{heading}: no file {file}; `file` is relative to the study's folder")
    if file.suffix != ".py":
        raise UsageError(f"{heading}: {file} does not end in .py")
    modules = load_file(file, files, version)
    if sys.__stderr__ and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # after a crash in native code, print which line of the custom code ran
    with _running(heading), _in_one_line(f"{heading}: {file} does not load", modules, UsageError):
        function = getattr(modules.load(file), str(reference), None)
    if not callable(function):
        raise UsageError(
            f'{heading}: {file} has no function {reference}({first}, …); rename one, or name it: function = "…"'
        )
    return UserFunction(heading, str(reference), file, modules, function, error)


class UserFunction:
    """A custom function that was imported. See the module docstring for how its errors and its output are handled.

    Its text form names the function and its file; error messages about its parameters start with it.

    Attributes:
        heading: First words of error messages, such as `probe blur`.
        name: Name of the function.
        file: File that defines it. None for a function in memory.
        code: Identity of the code.
    """

    def __init__(
        self,
        heading: str,
        name: str,
        file: Path | None,
        code: Code,
        function: Callable[..., Any],
        error: type[BandlensError],
    ) -> None:
        self.heading, self.name, self.file, self.code = heading, name, file, code
        self._function, self._error = function, error
        with _running(heading), _in_one_line(f"{self} cannot be used", code, UsageError):
            docstring = function.__doc__
            lines = inspect.cleandoc(docstring).splitlines() if isinstance(docstring, str) else []
            self.title = one_line(lines[0]) if lines else None
            """First line of the function's docstring. None without a docstring."""
            empty = inspect.Parameter.empty
            self.parameters: dict[str, tuple[Any, ...]] = {
                str(parameter.replace(annotation=empty, default=empty)): (
                    () if parameter.default is empty else (_plain(parameter.default),)
                )
                for parameter in inspect.signature(function).parameters.values()
            }
            """Name of each parameter -> a tuple with its default value, empty if it has none.

            The names of `*args` and `**kwargs` parameters include the stars.
            """

    def __str__(self) -> str:
        return f"{self.heading}: {self.name}{self.place}"

    @property
    def in_memory(self) -> bool:
        """Whether the function was passed as a Python object, so that only its version identifies it."""
        return self.file is None

    @property
    def place(self) -> str:
        """Text that follows the name of the function in messages: the file that defines it, or nothing."""
        return f" in {self.file}" if self.file else ""

    @contextmanager
    def at_work(self, note: str = "") -> Iterator[None]:
        """Mark the block as calling this function in this thread.

        A crash of the process or a call of more than a minute can then be attributed to the function.

        Args:
            note: Text that is passed to the callbacks in `crash_notes`. Nothing is passed if it is empty.
        """
        if note:
            for take in crash_notes:
                take(note)
        with _running(self.heading):
            yield

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function within a block of `at_work`. Whatever it raises becomes a one-line error."""
        with _in_one_line(f"{self.heading} failed", self.code, self._error):
            return self._function(*arguments, **settings)


crash_notes: list[Callable[[str], None]] = []
"""Callbacks that record which custom function is about to be called, so that a crash can be explained afterwards."""


@contextmanager
def _running(heading: str) -> Iterator[None]:
    """Mark the block as custom code that progress messages call `heading`, and redirect its output."""
    with step(heading), _standard_error():
        yield


@contextmanager
def _in_one_line(beginning: str, code: Code, error: type[BandlensError]) -> Iterator[None]:
    """Convert every exception of custom code to a one-line error with its location.

    The traceback of the cause is cut so that it begins in the custom code.
    """
    try:
        yield
    except BandlensError:
        raise
    except BaseException as failure:
        # Python delivers Ctrl-C to the main thread only. In any other thread, the custom code itself raised this.
        if isinstance(failure, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        words = type(failure).__name__
        with suppress(Exception):  # the `__str__` of a custom exception may itself fail
            words = ": ".join(filter(None, (words, " ".join(str(failure).split()))))
        trace, stack = failure.__traceback__, list[TracebackType]()
        while trace is not None:
            if code.owns(trace.tb_frame.f_globals):
                stack.append(trace)
            trace = trace.tb_next
        if stack:
            file = Path(stack[-1].tb_frame.f_code.co_filename)
            line = f"line {stack[-1].tb_lineno}"
            words += f" ({file.name}, {line})" if file.is_file() else f" ({line} of its cell)"
        raise error(f"{beginning}: {words}") from failure.with_traceback(stack[0] if stack else None)


def show_stack(error: BandlensError) -> None:
    """Log the traceback of an error that is otherwise reported in one line for a cell or a metric. Only with `-v`."""
    if error.__cause__ and log.isEnabledFor(logging.DEBUG):
        log.info(f"bandlens: {error}", exc_info=error.__cause__)


def _plain(value: object) -> object:
    """Convert instances of subclasses of bool, int, float and str, such as those of NumPy, to the plain type."""
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


def settings_of(
    parameters: Mapping[str, tuple[Any, ...]],
    reserved: Mapping[str, str],
    table: Mapping[str, Any],
    function: UserFunction,
) -> dict[str, tuple[Any, ...]]:
    """Return the parameters of a custom function whose values come from the study.

    Args:
        parameters: Parameters of the function, or some of them, with their defaults (see `UserFunction.parameters`).
        reserved: Names of the parameters that bandlens passes itself -> a description of the value.
        table: Table of the function in the study.
        function: The function, for error messages.

    Returns:
        The parameters without the reserved ones, and their defaults.

    Raises:
        UsageError: The study sets a reserved parameter, or a parameter of the function cannot be set in a study.
    """
    for name, meaning in reserved.items():
        if name in table:
            raise UsageError(
                f"{function.heading}: {name} is {meaning}, which its function is given; call the function's own "
                "parameter something else"
            )
    for name, default in parameters.items():
        if name in TABLE_KEYS:
            raise UsageError(
                f"{function} takes {name}, which is a key of its table in the study; call the parameter something else"
            )
        if name.startswith("*"):
            raise UsageError(
                f"{function} takes {name}; name each parameter, if need be in a function of yours that calls it"
            )
        if name in reserved and default:
            raise UsageError(
                f"{function} takes {name} with a default, and is given {reserved[name]}; leave the default out, or "
                "call the parameter something else"
            )
    return {name: default for name, default in parameters.items() if name not in reserved}


def private_copy(value: Any) -> Any:
    """Copy an argument for a custom function, so that writing to it in place has no effect outside the function.

    This is necessary for every argument of a custom probe, metric or model that is used again after the call. The copy
    of an array is contiguous. Containers are copied deeply.
    """
    return value.copy() if hasattr(value, "dtype") else deepcopy(value)


class _Thread(threading.local):
    """Data of the current thread."""

    blocks = 0
    """Number of nested blocks of this thread that run custom code."""


_thread = _Thread()


class _Output:
    """Replacement of standard output while custom code runs.

    `sys.stdout` belongs to the whole process, so this object decides for each access: threads that run custom code get
    standard error, and all other threads get the original stream.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if _thread.blocks else self.stream, name)


_output_lock, _output_users = threading.Lock(), 0


@contextmanager
def _standard_error() -> Iterator[None]:
    """Redirect the Python output of this thread to standard error while it runs custom code."""
    # Several threads may be in such a block at the same time. The first one installs the replacement and the last one
    # removes it. If the custom code has replaced `sys.stdout` itself, that stream is left in place.
    global _output_users
    with _output_lock:
        if not _output_users:
            sys.stdout = _Output(sys.stdout)
        _output_users += 1
    _thread.blocks += 1
    try:
        yield
    finally:
        _thread.blocks -= 1
        with _output_lock:
            _output_users -= 1
            if not _output_users and isinstance(sys.stdout, _Output):
                sys.stdout = sys.stdout.stream
