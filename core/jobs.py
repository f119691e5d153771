"""Long jobs: the processors that they may use, the threads and processes that share these, and their progress.

A job calls `advance` as it goes on; whoever started it decides what that shows. A user's function at work is a `step`,
so that progress and an interruption can say why nothing goes on.
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
"""The request of Linux's prctl for a signal at the end of the thread that started this process."""
SLOW_SECONDS = 60.0
"""Seconds after which a step is named."""
CGROUP = Path("/sys/fs/cgroup")
QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Files of control groups, of version 2 and of 1: microseconds of processors' time, and of the clock's."""


def processors() -> int:
    """Count the processors that this process may keep busy: by its affinity, and its container's quota of their time.

    `docker run --cpus` and the limits of Kubernetes are such quotas. Part of a processor counts where it is all.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not every system has it
    counts = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    for names in QUOTAS:
        with suppress(OSError, ValueError):  # where there is no such file, and where it says "max"
            quota, period = map(int, " ".join((CGROUP / name).read_text() for name in names).split())
            if quota > 0:  # -1 is none
                counts.append(max(1, quota // period))
    return min(counts)


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Generator[R]:
    """`map` in threads, in order, at most a few items ahead; as many threads as processors by default."""
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
    """Have Linux kill this process once the thread that started it is gone, also in the middle of a call.

    Elsewhere a process ends when it has answered, and finds nobody to answer to. SystemExit where the process `parent`,
    which started this one, is gone already: Linux would wait for the end of another.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(1)


def describe_exit(code: int) -> str:
    """How a process ended, by the code that it was waited for with: `ended with exit status 1`."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = next((number.name for number in signal.Signals if number == -code), f"signal {-code}")
    return f"was ended by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"


class Advance(Protocol):
    def __call__(self, amount: float = 1, /) -> None: ...


Progress = Callable[[str, float | None, str], AbstractContextManager[Advance]]
"""`with progress(what, total, unit) as advance`, then `advance(1)` after each."""


def silent(_activity: str, _total: float | None, _unit: str) -> AbstractContextManager[Advance]:
    """Show no progress."""
    return nullcontext(lambda _amount=1, /: None)


savers: list[Callable[[], str]] = []
"""Functions of jobs under way, which a thread calls once a signal ends the process: each stores what is computed so
far, and gives words on what is stored."""

_steps: dict[int, tuple[str, float]] = {}
"""The step of each thread that is in one, and when that began."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """The time in which this thread is in something that may take any time."""
    thread = threading.get_ident()
    _steps[thread] = (name, time.monotonic())
    try:
        yield
    finally:
        del _steps[thread]


def slow_step() -> str:
    """Words on a step that takes more than a minute; empty where there is none."""
    time_now = time.monotonic()
    slow = [(name, time_now - began) for name, began in list(_steps.values()) if time_now - began > SLOW_SECONDS]
    return f"{slow[0][0]} has been at work for {slow[0][1]:.0f} s" if slow else ""
