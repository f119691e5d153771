"""Ctrl-C, SIGTERM and SIGHUP end the process with one line, soon, whatever a library is busy with."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib.machinery import ExtensionFileLoader
from types import FrameType

MESSAGE = "bandlens: interrupted; what was committed stays, run the same command to go on"
GRACE_SECONDS = 1.5
SAVE_SECONDS = 10.0
"""Seconds that a job has to store what is computed."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TELL = bytes([255])
"""A byte that is no signal's number; it asks the watching thread to print the message."""

_received: list[int] = []
_read_end, _write_end = os.pipe()
_message_event = threading.Event()
_words_on_stored = ""
"""The words of a job on what it has stored; empty where there is none."""


def obey() -> None:
    """Let the first signal raise KeyboardInterrupt, and the second, or 1.5 s, end the process.

    While jobs store what they have computed, the end waits for them, for 10 s more at most.

    Python handles signals only between two of its own steps, and one batch of a large model, or one call of a user's
    probe, can take a minute; so a thread watches for them, too. What the database has committed stays.
    """
    os.set_blocking(_write_end, False)
    threading.Thread(target=_watch, name="signals", daemon=True).start()
    signal.set_wakeup_fd(_write_end, warn_on_full_buffer=False)
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)


def interrupted() -> bool:
    """Whether one of the signals has come."""
    return bool(_received)


def tell() -> int:
    """Say that the process was interrupted, once, and give its exit status: 128 and the number of the signal."""
    sys.stderr.flush()
    os.write(_write_end, TELL)
    while not _message_event.is_set():  # its wait() holds a lock, in which a second signal would find this thread
        time.sleep(0.001)
    return 128 + _received[0]


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1:  # at the second the watching thread ends the process
        _raise_outside(frame, "", None)


def _raise_outside(frame: FrameType | None, _event: str, _argument: object) -> None:
    """Raise KeyboardInterrupt, or have Python call this at each call and return until it can be raised."""
    native = _initializes_native(frame)
    sys.setprofile(_raise_outside if native else None)
    if not native:
        raise KeyboardInterrupt


def _initializes_native(frame: FrameType | None) -> bool:
    """Whether a native module is being initialized: C++ that gets an exception there ends the process by SIGABRT."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _print_message() -> None:
    """Print the message, once. Only the watching thread does: no signal comes between print and note."""
    if not _message_event.is_set():
        with suppress(OSError):  # nobody reads it
            # An import here might wait for ever for one that the main thread is in the middle of.
            jobs = sys.modules.get("bandlens.core.jobs")
            slow = jobs.slow_step() if jobs else ""
            line = MESSAGE.replace("interrupted", f"interrupted while {slow}", 1) if slow else MESSAGE
            line = line.replace("what was committed stays", _words_on_stored) if _words_on_stored else line
            os.write(2, f"{line}\n".encode())  # the main thread may be in the middle of a print
        _message_event.set()


def _save() -> None:
    """Have the jobs under way store what they have computed."""
    global _words_on_stored
    jobs = sys.modules.get("bandlens.core.jobs")
    for save in [*getattr(jobs, "savers", ())]:
        with suppress(Exception):
            _words_on_stored = save()


def _watch() -> None:
    """Wait for signals in a thread, since the main thread may be inside a call that lasts."""
    signal_number, end, last_end = 0, 0.0, 0.0
    saver = threading.Thread(target=_save, name="save", daemon=True)
    while True:
        if not select.select([_read_end], [], [], max(end - time.monotonic(), 0) if signal_number else None)[0]:
            if not saver.is_alive() or time.monotonic() > last_end:
                break
            end = time.monotonic() + 0.01
            continue
        byte = os.read(_read_end, 1)
        if byte == TELL:
            if saver.is_alive():  # the main thread has waited for it already
                saver.join(GRACE_SECONDS)
            _print_message()
        elif byte[0] in ENDING:
            if signal_number:
                break
            signal_number, end = byte[0], time.monotonic() + GRACE_SECONDS
            last_end = end + SAVE_SECONDS
            with suppress(RuntimeError):  # Python is at its end, and starts no thread
                saver.start()
    _print_message()
    os._exit(128 + (_received or [signal_number])[0])
