"""Processes that compute for this one: how they end with it, and how their own end is said."""

from __future__ import annotations

import os
import signal
import threading


def end_with_parent() -> None:
    """From now on, end this process when the one that started it is gone, also in the middle of a call."""
    threading.Thread(target=_end_without, args=[os.getppid()], daemon=True).start()


def _end_without(parent: int) -> None:
    # Linux could send a signal (PR_SET_PDEATHSIG), but does so when the thread that started this process ends, and that
    # may be one that perturbs.
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)


def describe_exit(code: int) -> str:
    """How a process ended, by the code that it was waited for with: `ended with exit status 1`."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"was ended by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"
