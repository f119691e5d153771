"""The output of a command on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence


def on_a_terminal(command: Sequence[str], columns: int = 80) -> list[str]:
    """The lines that a command prints on stdout, which is a terminal of so many columns."""
    control_end, terminal_end = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen(command, stdout=terminal_end, env=environment):
        os.close(terminal_end)
        shown = b""
        try:
            while piece := os.read(control_end, 1 << 16):
                shown += piece
        except OSError:  # the other end is closed
            pass
    os.close(control_end)
    return shown.decode().replace("\r", "").splitlines()
