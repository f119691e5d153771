"""A function in a user's file, such as an own probe: described and called in a process of its own, never in this one.

    function = UserFunction("measure worst", source, "worst", "outcomes", StoreError)   # starts the process
    title, parameters = function.describe()                     # UsageError where the file does not load
    settings = settings_of(parameters, RESERVED, function)
    values = function.call(measure_outcomes, outcomes, {"quantile": 0.1}, seconds=60)   # StoreError where it fails

`measure_outcomes(worst, outcomes, settings)` is a function of bandlens, at the top of a module that is light to import.
It runs in the process, where `worst` is the user's function; it may call that as often as it takes. Where one of the
two raises, the call fails; what is a BandlensError already is said as it is. Arguments and results are pickled. Their
NumPy arrays lie in shared memory, and those of a result hold until the next call. A result has no object of a class of
the user's, which this process does not know: `numpy.asarray` makes plain arrays of others.

`function.digest` stands for what results depend on; the process compares it with the files that it has loaded. Where
the process ends or takes too long, the call fails, and the next call starts another. One thread calls at a time.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from .channels import Channel
from .core.errors import BandlensError, UsageError
from .user_source import UserSource, source_digest

LOAD_SECONDS = 600.0
"""Seconds that a file may take to load. An import of torch took more than 120 on a machine of two processors with nine
times as much to do, and takes tens of them from a disk that is cold or far."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at whether the process still lives: one that it forked may hold its socket open."""
END_SECONDS = 10.0
"""Seconds that a process has to end after its socket was closed: memory and GPUs take a while to be given back."""


class OtherValue(NamedTuple):
    """A default that is neither number nor text, as it is shown: its class may be known to the user's file alone."""

    text: str

    def __repr__(self) -> str:
        return self.text


class Description(NamedTuple):
    """The description that a user's function gives of itself."""

    title: str | None
    """The first line of its docstring."""
    parameters: dict[str, tuple[Any, ...]]
    """The default of each parameter, if it has one: a number, a text, or an `OtherValue`. Its name begins with stars
    where it takes any number of values."""


class UserFunction:
    """See the module. Its text names function and file, as errors about its parameters begin."""

    def __init__(self, what: str, source: UserSource, name: str, first: str, error: type[BandlensError]) -> None:
        """Start a process that loads the file, without waiting for it; UsageError where there is no such file.

        Args:
            what: how errors begin, such as `probe blur`.
            source: the file, and what belongs to it.
            name: the function's name in the file.
            first: what examples call its first parameter.
            error: the class of errors of calls.
        """
        if not source.file.is_file():
            raise UsageError(f"{what}: no file {source.file}; `file` is relative to the study's folder")
        if source.file.suffix != ".py":
            raise UsageError(f"{what}: {source.file} does not end in .py")
        self.what, self.source, self.name = what, source, name
        self.digest = source_digest(source)
        self._task = ("bandlens.user_process", what, source, self.digest, name, first)
        self._error = error
        self._process: ChannelProcess | None = ChannelProcess(*self._task)

    def __str__(self) -> str:
        return f"{self.what}: {self.name} in {self.source.file}"

    def describe(self) -> Description:
        """The function's description; UsageError where the file does not load, or has no such function."""
        description: Description = self._loaded_process(UsageError).description
        return description

    def call(self, work: Callable[..., Any], *arguments: Any, seconds: float = math.inf) -> Any:
        """Run `work(function, *arguments)` in the process; `error` where it fails, or takes more `seconds`."""
        process = self._loaded_process(self._error)
        failing = f"{self.what} failed"
        try:
            process.send((work, arguments))
        except MemoryError as error:
            raise self._error(f"{failing}: no memory for what it is given: {error}") from error
        self._process = None  # it is lost unless it answers
        result, refusal = receive_answer(process, seconds, failing, self._error)
        self._process = process
        if refusal is not None:
            raise self._error(refusal)
        return result

    def _loaded_process(self, error: type[BandlensError]) -> ChannelProcess:
        """The process with a description; `error` where the file does not load."""
        process, self._process = self._process or ChannelProcess(*self._task), None
        if process.description is None:
            failing = f"{self.what}: {self.source.file} does not load"
            process.description, refusal = receive_answer(process, LOAD_SECONDS, failing, error)
            if refusal is not None:
                raise error(refusal)
        self._process = process
        return process


def settings_of(
    parameters: Mapping[str, tuple[Any, ...]], reserved: Mapping[str, str], where: UserFunction
) -> dict[str, tuple[Any, ...]]:
    """The parameters that a study gives values to; UsageError where it could not.

    Args:
        parameters: those of a user's function, or some of them.
        reserved: names that the program gives values to, and what each value is.
        where: the function, as errors begin.
    """
    for name, default in parameters.items():
        if name.startswith("*"):
            raise UsageError(f"{where} takes {name}; name each parameter")
        if name in reserved and default:
            raise UsageError(
                f"{where} takes {name} with a default, and is given {reserved[name]}; leave the default out, or call "
                "the parameter something else"
            )
    return {name: default for name, default in parameters.items() if name not in reserved}


class ChannelProcess:
    """A process on the other end of a channel. It ends with the last reference to it, if not before."""

    def __init__(self, module: str, *task: Any, **environment: str) -> None:
        """Run a module as a program, which opens its end (`user_process.open_channel`) and gets `sys.path` and `task`.

        `environment` are variables in addition to those of this process.
        """
        end, its_end = socket.socketpair()
        end.settimeout(LOOK_SECONDS)
        # Where standard error was closed, its number may be another file's by now.
        prints = 2 if sys.__stderr__ else subprocess.DEVNULL
        with its_end:
            self.process = subprocess.Popen(
                # -u: what it prints comes before it crashes
                [sys.executable, "-u", "-P", "-m", module],
                stdin=its_end.fileno(),
                stdout=prints,
                stderr=prints,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C is for this process, with which it ends
            )
        self._channel = Channel(end)
        self.end = weakref.finalize(self, _end, self.process, end)
        self.description: Any = None
        self.send((sys.path, task))

    def send(self, message: object) -> None:
        """MemoryError where there is no room for the message."""
        with suppress(OSError):  # it has ended, as `receive` will tell
            self._channel.send(message)

    def fileno(self) -> int:
        """The number of the socket, which can be read once there is a message, or the process has ended."""
        return self._channel.fileno()

    def receive(self, seconds: float) -> Any:
        """Its next message. Raises TimeoutError; and OSError, EOFError or UnpicklingError where the process ends."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._channel.receive()
            except TimeoutError:
                if self.process.poll() is not None:
                    raise EOFError from None
                if time.monotonic() > deadline:
                    raise


def describe_end(process: subprocess.Popen[bytes]) -> str:
    """Say how a process ended that answers no more."""
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed the socket that it answers on"
    if code >= 0:
        return f"ended with exit status {code}"
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"was ended by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"


def _end(process: subprocess.Popen[bytes], end: socket.socket) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):  # a process that waits for a driver dies when that comes back
        process.wait(END_SECONDS)
    end.close()


def receive_answer(
    process: ChannelProcess, seconds: float, failing: str, error: type[BandlensError]
) -> tuple[Any, Any]:
    """A result and None, or None and what was refused; `error` where it has ended or takes more `seconds`."""
    try:
        result, refusal = process.receive(seconds)
    except (OSError, EOFError, pickle.UnpicklingError) as failure:
        late = isinstance(failure, TimeoutError)
        fate = f"it takes more than {seconds:g} s" if late else f"its process {describe_end(process.process)}"
        process.end()  # whoever keeps the error keeps a reference to the process, which may compute for ever
        raise error(f"{failing}: {fate}") from None
    return result, refusal
