"""Vega, Vega-Lite and Vega-Embed as the one script that pages with charts hold."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from ...core.errors import UsageError

PROGRAM = """
import sys, vl_convert
{version}
script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
sys.stdout.buffer.write(script.encode())
"""
ASKS_ALTAIR = "from bandlens.analysis.charts.grammar import vega_lite_version\nversion = vega_lite_version()"


@cache
def begin_libraries() -> Future[str]:
    """Begin to make the script, once a process; `result` of what is returned waits for it.

    A process of its own makes it, since that takes 200 MB, and a second in which no other thread here could go on.
    """
    executor = ThreadPoolExecutor(1)
    libraries = executor.submit(_make_libraries)
    executor.shutdown(wait=False)
    return libraries


def _make_libraries() -> str:
    version = ASKS_ALTAIR
    if "altair" in sys.modules:  # as where a report is written: to load it in the program, too, would take longer
        from .grammar import vega_lite_version

        version = f"version = {vega_lite_version()!r}"
    # A signal or the end of this process ends the program, too, which is not worth a traceback.
    command = [sys.executable, "-P", "-c", PROGRAM.format(version=version)]
    completed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if completed.returncode:
        raise UsageError("vl-convert-python does not make the scripts of the page; install it again")
    return completed.stdout.decode()
