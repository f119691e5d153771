"""Count how often the files of a folder are opened, by Python and by libraries in C++ alike."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN = 0x20
IN_CLOSE = 0x18
EVENT = struct.Struct("iIII")
"""The header of an event of Linux's inotify: watch, mask, cookie, and the length of the name that follows."""


@contextmanager
def count_openings(folder: Path) -> Iterator[Counter[str]]:
    """Count the openings of each file of a folder in the block, in any process; the counts are complete after it.

    Equal events that follow each other are reported once. Closings are watched as well, so that two openings in
    succession are not equal events.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    openings = Counter[str]()
    try:
        if queue < 0 or libc.inotify_add_watch(queue, os.fsencode(folder), IN_OPEN | IN_CLOSE) < 0:
            raise OSError(ctypes.get_errno(), f"inotify cannot watch {folder}")
        yield openings
        openings.update(_read_openings(queue))
    finally:
        if queue >= 0:
            os.close(queue)


def _read_openings(queue: int) -> Iterator[str]:
    """Yield the name of the file of each opening."""
    while True:
        try:
            events = os.read(queue, 1 << 16)
        except BlockingIOError:
            return
        while events:
            _, mask, _, length = EVENT.unpack_from(events)
            name = os.fsdecode(events[EVENT.size : EVENT.size + length].rstrip(b"\0"))
            if mask & IN_OPEN and name:
                yield name
            events = events[EVENT.size + length :]
