"""Messages between two processes that take turns: pickles whose arrays lie in memory that both see."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from .core.errors import BandlensError
from .core.processes import describe_exit, end_with_parent

ALIGNMENT = 64
"""Bytes that each array begins at a multiple of, as NumPy's own do at least."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at whether the process still lives: one that it forked may hold its socket open."""
END_SECONDS = 10.0
"""Seconds that a process has to end after its socket was closed: memory and GPUs take a while to be given back."""


class Channel:
    """One end of the conversation. The socket carries a byte a message, and the memory where it has grown.

    All content lies in memory, so that neither end waits for the other to read, and no number of a descriptor outlives
    a message: code of a user's, which may close any, runs between two.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._outgoing = self._incoming = mmap.mmap(-1, 1)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: object) -> None:
        """Put the message where the other end will read it.

        Raises MemoryError where there is no room, and OSError where there is no other end.
        """
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
        parts = [memoryview(pickled), *(array.raw() for array in arrays)]
        sizes = pickle.dumps([part.nbytes for part in parts])
        slices = list(_slices(len(sizes), (part.nbytes for part in parts)))
        files = []
        if slices[-1].stop > len(self._outgoing):
            try:
                files = [_unnamed_file()]
                os.truncate(files[0].fileno(), slices[-1].stop)
                self._outgoing = mmap.mmap(files[0].fileno(), 0)
            except OSError as error:
                raise MemoryError(error.strerror) from error
        self._outgoing[: len(sizes)] = sizes
        for part_slice, part in zip(slices, parts, strict=True):
            self._outgoing[part_slice] = part
        try:
            socket.send_fds(self._end, [b"\0"], [file.fileno() for file in files])
        finally:
            for file in files:
                file.close()

    def receive(self) -> Any:
        """The next message. Its arrays lie in the memory, and hold until the one after it is received.

        Raises EOFError where the other end is gone, and TimeoutError where the socket has a timeout.
        """
        byte, files, *_ = socket.recv_fds(self._end, 1, 1)
        if not byte:
            raise EOFError
        for file in files:
            self._incoming = mmap.mmap(file, 0)
            os.close(file)
        self._incoming.seek(0)
        sizes = pickle.load(self._incoming)  # noqa: S301 - both ends are the same program
        memory = memoryview(self._incoming)
        message, *arrays = (memory[part_slice] for part_slice in _slices(self._incoming.tell(), sizes))
        return pickle.loads(message, buffers=arrays)  # noqa: S301


def _slices(start: int, sizes: Iterable[int]) -> Iterator[slice]:
    """The slices of memory that parts of those sizes take, one after another."""
    for size in sizes:
        start += -start % ALIGNMENT
        yield slice(start, start + size)
        start += size


def _unnamed_file() -> IO[bytes]:
    """A file in memory, where the system has such files."""
    return os.fdopen(os.memfd_create("channel"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def open_channel() -> Channel:
    """The channel to the command that started this process, which from now on ends with it.

    Where memory is short, this process is the first to be ended.
    """
    # The socket gets another number, since `input()` would read messages from 0.
    channel = Channel(socket.socket(fileno=os.dup(0)))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    end_with_parent()
    return channel


class ChannelProcess:
    """A process on the other end of a channel. It ends with the last reference to it, if not before."""

    def __init__(self, module: str, *task: Any, **environment: str) -> None:
        """Run a module as a program, which opens its end (`open_channel`) and gets `sys.path` and `task`.

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
    return describe_exit(code)


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
