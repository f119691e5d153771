"""Helpers for long jobs: available processors, parallel threads, child processes and progress reporting.

A job reports its progress by calling `advance`; its caller decides how to display it. A call of a custom function is
wrapped in `step`, so that the progress display and the message after an interrupt can name the function that blocks
the job.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol, TypeVar

from .errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl`: send this process a signal when the thread that started it ends."""
SLOW_SECONDS = 60.0
"""Duration in seconds after which a step is reported as slow."""
CGROUP = Path("/sys/fs/cgroup")
QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""CPU quota files of control groups, version 2 and version 1: the quota and the period, both in microseconds."""


def processors() -> int:
    """Count the processors that this process may use, according to its CPU affinity and the CPU quota of its container.

    `docker run --cpus` and Kubernetes limits set such quotas. A fractional quota is rounded down, but to at least 1.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS
    counts = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    for names in QUOTAS:
        with suppress(OSError, ValueError):  # the file is missing, or contains "max" instead of a number
            quota, period = map(int, " ".join((CGROUP / name).read_text() for name in names).split())
            if quota > 0:  # -1 means no limit
                counts.append(max(1, quota // period))
    return min(counts)


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Generator[R]:
    """Apply `work` to `items` in threads and yield the results in order.

    The window of submitted items is bounded, because results that are waiting for the consumer occupy memory.

    Args:
        work: Function of one item.
        items: Its inputs, read lazily.
        workers: Number of threads. By default, one per available processor, up to 32.

    Yields:
        The results, in the order of `items`.

    Raises:
        UsageError: `workers` is less than 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers: at least 1 is needed")
    threads = workers or min(32, processors())
    window: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                window.append(pool.submit(work, item))
                if len(window) > 4 * threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def end_with_parent(parent: int | None = None) -> None:
    """Have Linux kill this process as soon as the thread that started it ends, even in the middle of a library call.

    On other systems, a child process ends when it tries to send its next result and the parent is gone.

    Args:
        parent: Process id of the parent, if known.

    Raises:
        SystemExit: `parent` has ended already.
    """
    # The check of the parent must follow the request. If the parent ended before the request, this process has a new
    # parent already, and Linux would wait for the end of that one.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(1)


def describe_exit(code: int) -> str:
    """Describe how a process ended, from the return code of `subprocess`: `ended with exit status 1`."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = next((number.name for number in signal.Signals if number == -code), f"signal {-code}")
    return f"was ended by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"


class Advance(Protocol):
    """Reports that a job has completed `amount` more units."""

    def __call__(self, amount: float = 1, /) -> None: ...


Progress = Callable[[str, float | None, str], AbstractContextManager[Advance]]
"""A progress display: `with progress(activity, total, unit) as advance:`, then `advance(1)` after each unit."""


def silent(_activity: str, _total: float | None, _unit: str) -> AbstractContextManager[Advance]:
    """Discard all progress reports."""
    return nullcontext(lambda _amount=1, /: None)


savers: list[Callable[[], str]] = []
"""Callbacks of running jobs, called by a thread when a signal ends the process.

Each saves the results that were computed so far and returns a text about what is saved.
"""

_steps: dict[int, tuple[str, float]] = {}
"""Thread id -> name of the step that the thread is in, and its start time."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Mark the block as a step of this thread whose duration cannot be predicted, such as a custom function."""
    thread = threading.get_ident()
    _steps[thread] = (name, time.monotonic())
    try:
        yield
    finally:
        del _steps[thread]


def slow_step() -> str:
    """Describe a step that has been running for more than a minute. Return an empty text if there is none."""
    time_now = time.monotonic()
    slow = [(name, time_now - began) for name, began in list(_steps.values()) if time_now - began > SLOW_SECONDS]
    return f"{slow[0][0]} has been at work for {slow[0][1]:.0f} s" if slow else ""
