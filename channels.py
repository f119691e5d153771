"""Messages between two processes that take turns: pickles whose arrays lie in memory that both see."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import IO, Any

ALIGNMENT = 64
"""Bytes that each array begins at a multiple of, as NumPy's own do at least."""


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


def end_with_parent() -> None:
    """From now on, end this process when the one that started it is gone, also in the middle of a call."""
    threading.Thread(target=_end_without, args=[os.getppid()], daemon=True).start()


def _end_without(parent: int) -> None:
    # Linux could send a signal (PR_SET_PDEATHSIG), but does so when the thread that started this process ends, and that
    # may be one that perturbs. `time.sleep` is not used, since the user's file may replace it.
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)


def _unnamed_file() -> IO[bytes]:
    """A file in memory, where the system has such files."""
    return os.fdopen(os.memfd_create("channel"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
