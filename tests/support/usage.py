"""Run a command and tell what it prints, and the time and memory that it and its processes take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

WALL_SECONDS = 60
MEASURE = """
import json, resource, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
out, err = process.communicate()
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([process.returncode, out, err, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024]))
"""
"""A process of its own starts the command: it can ask for the most memory of all children that it ever had."""


def measure_usage(words: Sequence[object], folder: Path) -> tuple[int, str, str, float, int]:
    """The exit status and the output of a command, and the seconds and megabytes that it and its processes took."""
    bandlens = [sys.executable, "-P", "-m", "bandlens", *map(str, words)]
    command = [sys.executable, "-I", "-S", "-c", MEASURE, "", *bandlens]
    environment = os.environ | {"BANDLENS_HOME": str(folder / "home")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment, start_new_session=True
    )
    try:
        return tuple(json.loads(process.communicate(timeout=WALL_SECONDS)[0]))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
