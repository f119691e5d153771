"""Code of somebody else that runs in this process: whatever it does becomes an error in one line.

While a guest is here, in its thread:

- what it raises, GeneratorExit and SystemExit included, becomes the caller's kind of error;
- what would end the process (os._exit, os.abort, os.exec…) is refused, and so is closing a descriptor that was open
  when it came: behind that number may lie the results;
- what it prints, by Python, a library or a program that it starts, goes to standard error, since standard output is for
  results; descriptors 0 to 2 and the working directory are afterwards what they were;
- a process that it forks and that comes back from it ends;
- the files that it opens to read are noted.

What no program can refuse is left: signals that kill, and crashes of libraries. So a run has its guests in a process of
their own (see `process`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from ..errors import BandlensError

end_process, close, duplicate = os._exit, os.close, os.dup2  # as they are without `_watch`


class Refused(BaseException):
    """What a guest may not do. No `except Exception` of its own hides it."""


File = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class _Visit:
    process: int
    found: Mapping[int, File]
    """Descriptors that were open when the guest came, and of which files."""
    read: list[str] = field(default_factory=list)

    def foreign(self, number: int) -> bool:
        """Whether the descriptor is not the guest's own. A number that was closed meanwhile may be."""
        return number in self.found and self.found[number] == _file(number)


_here = threading.local()


def _visit() -> _Visit | None:
    """That of this thread; None in a process that it has forked, which may end as it likes."""
    visit: _Visit | None = getattr(_here, "visit", None)
    return visit if visit and visit.process == os.getpid() else None


@contextmanager
def visiting() -> Iterator[list[str]]:
    """Let a guest in, and give the names of the files that it opens to read, as it opens them."""
    _watch()
    folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # its name may be gone, or go
    with _streams():
        _here.visit = _Visit(os.getpid(), _descriptors())
        try:
            yield _here.visit.read
        finally:
            _here.visit = None
            os.fchdir(folder)
            close(folder)


@contextmanager
def in_one_line(kind: type[BandlensError], what: str) -> Iterator[None]:
    """Whatever is raised becomes an error of that kind; `what` begins its line."""
    try:
        yield
    # GeneratorExit and the like would end the thread that perturbs as if all were well.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # it is the user who interrupts
        try:
            said = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001 - an error that fails when it is to be shown
            said = type(error).__name__
        raise kind(f"{what}: {' '.join(said.split())}") from error
    finally:
        if getattr(_here, "visit", None) and not _visit():
            end_process(1)  # a process that it has forked would go on with the run


@contextmanager
def _streams() -> Iterator[None]:
    """Send standard output to standard error, and bring both back, whatever becomes of them."""
    _flush()
    # A number whose stream was closed from the beginning may be the database's by now.
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    kept = {number: os.dup(number) for number, stream in enumerate(streams) if stream and _file(number)}
    told = _told(2 in kept)
    if 1 in kept and 2 in kept:
        duplicate(2, 1)
    try:
        with redirect_stdout(told), redirect_stderr(told):
            yield
    finally:
        _flush()  # what went to sys.__stdout__
        for number, copy in kept.items():
            duplicate(copy, number)
            close(copy)


_streams_of_guests: list[TextIO] = []


def _told(there: bool) -> TextIO:
    """Standard error, or nothing where there is none, as a stream that guests may close.

    It is the same for all visits, since a logger that one of them makes keeps it.
    """
    if not _streams_of_guests or _streams_of_guests[-1].closed:
        name: int | str = 2 if there else os.devnull
        _streams_of_guests[:] = [open(name, "w", 1, errors="backslashreplace", closefd=not there)]  # noqa: SIM115
    return _streams_of_guests[-1]


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        with suppress(AttributeError, ValueError, OSError):  # there is none, or it is closed
            stream.flush()  # type: ignore[union-attr]


def _file(number: int) -> File | None:
    """What a descriptor is of, where it is open."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _descriptors() -> dict[int, File]:
    """All that are open, as Linux and macOS list them."""
    numbers = [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    return {number: file for number in numbers if (file := _file(number))}


@cache
def _watch() -> None:
    """Put the refusals into place, once: they do nothing where no guest is."""
    sys.addaudithook(_hear)
    for name, numbers in CLOSERS.items():
        setattr(os, name, _guarded(name, numbers))
    for name in ("_exit", "abort"):
        setattr(os, name, _guarded(name))


CLOSERS: dict[str, Callable[..., Any]] = {
    "close": lambda number: [number],
    "closerange": range,
    "dup2": lambda _, number, *__, **___: [number],
}
"""What closes descriptors, and which it closes."""


def _guarded(name: str, numbers: Callable[..., Any] | None = None) -> Callable[..., Any]:
    function = getattr(os, name)

    def guarded(*args: Any, **more: Any) -> Any:
        if visit := _visit():
            if numbers is None:
                raise Refused(f"os.{name} would end the process")
            closed = numbers(*args, **more)
            if any(number in closed and visit.foreign(number) for number in visit.found):
                raise Refused(f"os.{name} would close a descriptor that is not its own")
        return function(*args, **more)

    return guarded


def _hear(event: str, args: tuple[Any, ...]) -> None:
    """Python's own report of what is done, before it is done (PEP 578)."""
    if event not in ("open", "os.exec") or not (visit := _visit()):
        return
    if event == "os.exec":
        raise Refused("os.exec would end the process")
    path, _, flags = args
    if isinstance(path, int):
        if path > 2 and visit.foreign(path):
            raise Refused(f"open({path}) would take a descriptor that is not its own")
    elif not flags & os.O_WRONLY:
        visit.read.append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - a link counts where it lies
