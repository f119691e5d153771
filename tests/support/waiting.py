"""Waiting for an event in another process: a file that appears, a child that is there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

LIMIT_SECONDS = 240.0
"""Seconds after which a test gives up: far more than any event takes on a busy machine."""


def wait_until(event: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Ask `event` again and again until its answer is true.

    AssertionError where the process that is to bring the event about has ended, or after LIMIT_SECONDS.
    """
    end = time.monotonic() + LIMIT_SECONDS
    while not event():
        assert process is None or process.poll() is None, "the process has ended before the event"
        assert time.monotonic() < end, f"no event in {LIMIT_SECONDS:.0f} s"
        time.sleep(0.01)
