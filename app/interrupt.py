"""Ctrl-C within two seconds, whatever a library is busy with."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
MESSAGE = "bandlens: interrupted; what was committed stays, run the same command to go on"
GRACE_SECONDS = 1.5


@contextmanager
def ends_in_time() -> Iterator[None]:
    """In this block of the main thread Ctrl-C ends the process after 1.5 s if it has not ended by then.

    Python hears of Ctrl-C only between two of its own steps, and one batch of a large model, or one call of a user's
    probe, can take a minute. Nothing is lost by leaving at once: the database is made for it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    left = threading.Event()
    threading.Thread(target=_watch, args=(reader, left), name="interrupt", daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int, left: threading.Event) -> None:
    """Read the signals that arrive, until the writing end is closed."""
    with open(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] == signal.SIGINT and not left.wait(GRACE_SECONDS):
                print(MESSAGE, file=sys.stderr, flush=True)
                os._exit(INTERRUPTED)
