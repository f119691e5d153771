"""The process in which a user's file is loaded and its function is called: `python -P -m bandlens.user_process`.

Whatever the file does ends here, and `user_function` tells the command of it. Standard input is this end of a
`Channel`. The first message is the command's `sys.path`, which this process takes over, and what `UserFile` takes: the
file is loaded, and the answer is a `Description`. Each later one is a function of bandlens with arguments: it is called
with the user's function and these, and its result is the answer. An answer is a result and None, or None and the line
that an error is to say.

While code of the user's runs,

- what it raises, GeneratorExit and SystemExit included, becomes a line;
- what it prints, by Python, a library or a program that it starts, goes to standard error, since standard output is for
  results; streams that it closed are opened again, and the working directory is what it was;
- the files that it opens to read are noted, and those beside it that are no part of its identity are refused;
- a process that it forks and that comes back from it ends.
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import machinery
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType
from typing import Any

from .channels import Channel, end_with_parent
from .core.errors import BandlensError, UsageError
from .core.untrusted import one_line
from .user_function import Description, OtherValue
from .user_source import UserSource, source_digest, source_names

PACKAGE = __name__.partition(".")[0]
PYTHON = (sys.prefix, sys.base_prefix)
"""Folders of Python and its libraries, which may lie below the user's."""


def open_channel() -> Channel:
    """The channel to the command that started this process, which from now on ends with it.

    Where memory is short, this process is the first to be ended.
    """
    # The socket gets another number, since `input()` in the user's file would read messages from 0.
    channel = Channel(socket.socket(fileno=os.dup(0)))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    end_with_parent()
    return channel


def main() -> None:
    channel = open_channel()
    try:
        search_path, task = channel.receive()
        sys.path[:] = search_path
        file = UserFile(*task)
        _answer(channel, f"{file.what}: {file.source.file} does not load", file.load)
        while True:
            work, arguments = channel.receive()
            _answer(channel, f"{file.what} failed", file.call, work, arguments)
    except EOFError:
        os._exit(0)  # the command is gone, and nobody waits for threads of the user's
    except OSError:
        os._exit(1)  # the user's code has closed the socket


def _answer(channel: Channel, failing: str, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        with _in_one_line(failing):
            channel.send((function(*arguments), None))  # here, since a result that cannot be pickled is a line, too
    except UsageError as error:
        channel.send((None, str(error)))


@contextmanager
def _in_one_line(beginning: str) -> Iterator[None]:
    """Turn whatever is raised into a UsageError of one line, and leave errors of bandlens as they are."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, BandlensError):
            raise UsageError(str(error)) from error
        try:
            words = " ".join(f"{type(error).__name__}: {error}".split())
        except Exception:  # noqa: BLE001 - the error fails as it is shown
            words = type(error).__name__
        raise UsageError(f"{beginning}: {words}") from error


class UserFile:
    """The file, and what it does here."""

    def __init__(self, what: str, source: UserSource, digest: str, name: str, first: str) -> None:
        """See `user_function.UserFunction`; `digest` is that of the source when the command began."""
        self.what, self.source = what, source
        self._digest, self._name, self._first = digest, name, first
        self._folder = source.file.parent.absolute()
        self._process = os.getpid()
        self._errors = os.dup(2)
        self._start = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # its name may be gone, or go
        self._function: Any = None
        """The user's function, once `load` has found it."""
        self._identity = set[str]()
        """The files that the digest covers, relative to the folder; `load` lists them."""
        self._at_work = False
        self._opened: list[str] = []
        self._modules = set(sys.modules)
        self._files_read = set[str]()
        """The files that were read or imported of the folder so far. A function may keep what it has read, so a file
        that does not belong to it spoils all calls that follow."""

    def load(self) -> Description:
        """Import the file and describe its function; UsageError where that is not possible."""
        self._identity = set(source_names(self.source))
        path, module_name = str(self.source.file.absolute()), f"{PACKAGE}_user_{self.source.file.stem}"
        loader = _SourceLoader(module_name, path)
        spec = machinery.ModuleSpec(module_name, loader, origin=path)
        spec.has_location = True
        module = sys.modules[module_name] = module_from_spec(spec)  # dataclasses and pickles look for it there
        sys.addaudithook(self._note)
        sys.path.insert(0, str(self._folder))
        sys.path_hooks.insert(0, self._finder)
        sys.path_importer_cache.clear()  # its finders would find bytecode
        with self._working():
            loader.exec_module(module)
        with _in_one_line(f"{self.what}: {self._name} in {self.source.file} cannot be used"), self._working():
            function = getattr(module, self._name, None)
            if not callable(function):
                raise UsageError(
                    f"{self.what}: {self.source.file} has no function {self._name}({self._first}, …); "
                    'rename one, or name it: function = "…"'
                )
            description = _describe(function)
        self._function = function
        self._check_files()
        if source_digest(self.source) != self._digest:
            raise UsageError(f"{self.what} was changed since the command began; run it again")
        return description

    def call(self, work: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Run `work` on the user's function and the arguments."""
        result = work(self._call, *arguments)
        self._check_files()
        return result

    def _call(self, *arguments: Any, **settings: Any) -> Any:
        with self._working():
            return self._function(*arguments, **settings)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """The time in which the user's code runs."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(self._errors, number)
            if getattr(getattr(sys, name), "closed", False):
                setattr(sys, name, os.fdopen(number, "w", 1, errors="backslashreplace", closefd=False))
        self._at_work = True
        try:
            yield
        finally:
            if os.getpid() != self._process:
                os._exit(1)
            self._at_work = False
            os.fchdir(self._start)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what is opened to be read. Python reports it before it is done (PEP 578)."""
        if event == "open" and self._at_work:
            path, _, flags = arguments
            if not isinstance(path, int) and not flags & os.O_WRONLY:
                self._opened.append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - a link counts where it lies

    def _finder(self, path: str) -> machinery.FileFinder:
        """The hook that finds modules of the user's folder."""
        if not _relative_to_folder(self._folder, path):
            raise ImportError
        return machinery.FileFinder(
            path,
            (_SourceLoader, machinery.SOURCE_SUFFIXES),
            (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        )

    def _check_files(self) -> None:
        """UsageError where a file beside it was read or imported that is no part of its identity."""
        modules = {name for name in set(sys.modules) - self._modules if name.partition(".")[0] != PACKAGE}
        self._modules |= modules
        files = [*self._opened, *(getattr(sys.modules[name], "__file__", None) or "" for name in modules)]
        self._opened.clear()
        self._files_read |= {
            name for file in files if Path(file).is_file() and (name := _relative_to_folder(self._folder, file))
        }
        if undeclared := sorted(self._files_read - self._identity):
            uses = ", ".join(f'"{name}"' for name in [*self.source.uses, *undeclared])
            raise UsageError(
                f"{self.what} reads {', '.join(undeclared)}, and nothing says that its results depend on that; add to "
                f"its table in the study: uses = [{uses}]"
            )


class _SourceLoader(machinery.SourceFileLoader):
    """Compiles the source that lies there. Kept bytecode is found by the source's time and length, and two edits may
    have both in common.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _describe(function: Callable[..., Any]) -> Description:
    docstring = function.__doc__
    lines = inspect.cleandoc(docstring).splitlines() if isinstance(docstring, str) else []
    nothing = inspect.Parameter.empty
    return Description(
        one_line(lines[0]) if lines else None,
        {
            str(parameter.replace(annotation=nothing, default=nothing)): (
                () if parameter.default is nothing else (_plain(parameter.default),)
            )
            for parameter in inspect.signature(function).parameters.values()
        },
    )


def _plain(value: object) -> bool | int | float | str | OtherValue:
    """The value in Python's own class, where it is a number or text of any."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return OtherValue(repr(value))


def _relative_to_folder(folder: Path, file: str) -> str | None:
    """The path of a file relative to the folder; None for one that lies elsewhere, or that is there for Python.

    Such are compiled modules, hidden folders, and Python with its libraries.
    """
    if any(Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)) for root in PYTHON):
        return None
    for path, root in ((file, folder), (os.path.realpath(file), os.path.realpath(folder))):
        if Path(path).is_relative_to(root):
            relative = Path(path).relative_to(root)
            is_pythons = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            return None if is_pythons else relative.as_posix()
    return None


if __name__ == "__main__":
    main()
