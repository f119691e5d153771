"""A command whose library does not answer ends with its line."""

from __future__ import annotations

import subprocess

from made_up_results import python
from waiting import LIMIT_SECONDS

STUCK = """
import sys, threading
from bandlens import __main__
from bandlens.app import cli
from bandlens.core.timeouts import TimedCalls
def app():
    try:
        TimedCalls(0.05, "no answer")(threading.Event().wait)
    finally:
        import atexit
        atexit.register(print, "unloaded")
cli.app = app
__main__.main()
"""


def test_a_command_with_a_library_that_is_stuck_ends_with_its_line_and_unloads_nothing() -> None:
    result = subprocess.run(python(STUCK), capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "bandlens: no answer\n")
