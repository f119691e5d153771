"""Processes that compute for this one: how they end with it, and how their own end is said."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""The request of Linux's prctl for a signal at the end of the thread that started this process."""


def end_with_parent() -> None:
    """Have Linux kill this process once the thread that started it is gone, also in the middle of a call.

    Elsewhere a process ends when it has answered, and finds nobody to answer to.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def describe_exit(code: int) -> str:
    """How a process ended, by the code that it was waited for with: `ended with exit status 1`."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = next((number.name for number in signal.Signals if number == -code), f"signal {-code}")
    return f"was ended by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"
