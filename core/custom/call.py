"""A function of a user's, such as an own probe: imported, described and called in this process.

    function = user_function("measure worst", "worst", table, folder, "predicted", StoreError)
    settings = settings_of(function.parameters, RESERVED, table, function)   # UsageError where no study could give them
    with function.at_work():
        values = function(predicted=…, quantile=0.1)                  # StoreError where it fails

Whatever it raises is one line with the file and line number of its code, SystemExit and GeneratorExit too; an interrupt
is the user's own where it may be. What its thread prints with Python goes to standard error, since standard output is
for results. State that belongs to the whole process, such as torch's default dtype, stays as the function leaves it.
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
    """Import a function; UsageError where its file does not load or has none, or its identity cannot be told.

    Args:
        heading: how errors begin, such as `probe blur`.
        name: the function's name in its file, unless the table says another.
        table: the study's table of it, with `file` or with a `function` in memory, and perhaps `files` and `version`.
        folder: the study's folder.
        first: what examples call its first parameter.
        error: the class of errors of calls.
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
        faulthandler.enable(sys.__stderr__)  # a crash says at which line of the user's it came
    with _running(heading), _in_one_line(f"{heading}: {file} does not load", modules, UsageError):
        function = getattr(modules.load(file), str(reference), None)
    if not callable(function):
        raise UsageError(
            f'{heading}: {file} has no function {reference}({first}, …); rename one, or name it: function = "…"'
        )
    return UserFunction(heading, str(reference), file, modules, function, error)


class UserFunction:
    """See the module. Its text names function and file, as errors about its parameters begin."""

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
            """The first line of its docstring."""
            empty = inspect.Parameter.empty
            self.parameters: dict[str, tuple[Any, ...]] = {
                str(parameter.replace(annotation=empty, default=empty)): (
                    () if parameter.default is empty else (_plain(parameter.default),)
                )
                for parameter in inspect.signature(function).parameters.values()
            }
            """The default of each parameter, if it has one. Its name begins with stars where it takes any number of
            values."""

    def __str__(self) -> str:
        return f"{self.heading}: {self.name}{self.place}"

    @property
    def in_memory(self) -> bool:
        """Whether its version alone identifies it."""
        return self.file is None

    @property
    def place(self) -> str:
        """Words that follow its name: where it is defined."""
        return f" in {self.file}" if self.file else ""

    @contextmanager
    def at_work(self, note: str = "") -> Iterator[None]:
        """The time of some calls in this thread, which a crash or a wait of a minute is put down to.

        `note` is what `crash_notes` get.
        """
        if note:
            for take in crash_notes:
                take(note)
        with _running(self.heading):
            yield

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call it; one line where it fails. To be used while it is `at_work`."""
        with _in_one_line(f"{self.heading} failed", self.code, self._error):
            return self._function(*arguments, **settings)


crash_notes: list[Callable[[str], None]] = []
"""Functions that are told what is at work before it is, for who asks after a crash."""


@contextmanager
def _running(heading: str) -> Iterator[None]:
    """Run a user's code in the block, which progress lines call `heading`."""
    with step(heading), _standard_error():
        yield


@contextmanager
def _in_one_line(beginning: str, code: Code, error: type[BandlensError]) -> Iterator[None]:
    """Turn whatever a user's code raises into one line that says where; its stack begins in that code."""
    try:
        yield
    except BandlensError:
        raise
    except BaseException as failure:
        # Ctrl-C comes to the main thread; elsewhere nobody but the code can have raised it.
        if isinstance(failure, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        words = type(failure).__name__
        with suppress(Exception):  # an error may fail as it is shown
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
    """Log the stack of an error that becomes the line of a cell or a number, where all is to be shown (`-v`)."""
    if error.__cause__ and log.isEnabledFor(logging.DEBUG):
        log.info(f"bandlens: {error}", exc_info=error.__cause__)


def _plain(value: object) -> object:
    """Convert NumPy's and other subclasses of numbers and text to plain bool, int, float or str."""
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


def settings_of(
    parameters: Mapping[str, tuple[Any, ...]],
    reserved: Mapping[str, str],
    table: Mapping[str, Any],
    function: UserFunction,
) -> dict[str, tuple[Any, ...]]:
    """The parameters that a study gives values to; UsageError where it could not, or gives one to another.

    Args:
        parameters: those of the function, or some of them.
        reserved: names that the program gives values to, and what each value is.
        table: the study's table of the function.
        function: the function, as errors begin.
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
    """Copy a value that a custom function is given and that is read again later: the function may write into it.

    Every argument of a custom probe, measure or model that was not made for the call goes through this. The copy of an
    array is contiguous; a container is copied with all that it contains.
    """
    return value.copy() if hasattr(value, "dtype") else deepcopy(value)


class _Thread(threading.local):
    """A thread, and how many blocks it is in that run a user's code."""

    blocks = 0


_thread = _Thread()


class _Output:
    """Standard output while a user's code runs in some threads: these get standard error."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if _thread.blocks else self.stream, name)


_output_lock, _output_users = threading.Lock(), 0


@contextmanager
def _standard_error() -> Iterator[None]:
    """Have what this thread prints with Python go to standard error, while it runs a user's code."""
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
