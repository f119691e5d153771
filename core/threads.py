"""The processors that this process may use, and work that threads share on them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from .errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

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
