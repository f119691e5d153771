"""The number of processors that this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

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
