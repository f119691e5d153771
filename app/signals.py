"""Ctrl-C, SIGTERM and SIGHUP end the process with one line, soon, whatever a library is busy with."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from types import FrameType

MESSAGE = "bandlens: interrupted; what was committed stays, run the same command to go on"
GRACE_SECONDS = 1.5
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORGIVEN = bytes([0])
"""Among the numbers of signals, which it is none of: those before it are answered."""
TELL = bytes([255])
"""As little a signal's number: say the message."""

_received: list[int] = []
_heard_by, _told_by = os.pipe()
_said = threading.Event()


def obey() -> None:
    """From here on the first of the signals raises KeyboardInterrupt, and 1.5 s later, or the second, ends the process.

    Python hears of signals only between two of its own steps, and one batch of a large model, or one call of a user's
    probe, can take a minute; so a thread hears of them, too. Nothing is lost by leaving at once: the database is made
    for it.
    """
    os.set_blocking(_told_by, False)
    threading.Thread(target=_watch, name="signals", daemon=True).start()
    signal.set_wakeup_fd(_told_by, warn_on_full_buffer=False)
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)


def interrupted() -> bool:
    """Whether one of the signals has come."""
    return bool(_received)


def forgive() -> bool:
    """Go on after Ctrl-C, as a prompt does that ends one answer and asks for the next. False after other signals."""
    if any(number != signal.SIGINT for number in _received):
        return False
    _received.clear()
    os.write(_told_by, FORGIVEN)
    return True


def tell() -> int:
    """Say that the process was interrupted, once, and give its exit status: 128 and the number of the signal."""
    sys.stderr.flush()
    os.write(_told_by, TELL)
    while not _said.is_set():  # its wait() holds a lock, in which a second signal would find this thread
        time.sleep(0.001)
    return 128 + _received[0]


def _interrupt(number: int, _: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1:  # of the second the watching thread hears, too, and ends the process
        raise KeyboardInterrupt


def _say() -> None:
    """Say the message, once. Only the watching thread does, which no signal interrupts between saying and noting it."""
    if not _said.is_set():
        os.write(2, f"{MESSAGE}\n".encode())  # the main thread may be in the middle of a print
        _said.set()


def _watch() -> None:
    """Hear the signals for the main thread, which may not."""
    came, end = 0, 0.0
    while select.select([_heard_by], [], [], max(end - time.monotonic(), 0) if came else None)[0]:
        number = os.read(_heard_by, 1)
        if number == FORGIVEN:
            came = 0
        elif number == TELL:
            _say()
        elif number[0] in ENDING:
            if came:
                break
            came, end = number[0], time.monotonic() + GRACE_SECONDS
    _say()
    os._exit(128 + (_received or [came])[0])
