"""A crash of the process, as the next run learns of it: the condition of a user's probe that was at work, and the line.

While a run has probes of the user's, a hidden file beside the database begins with the digest of the condition at work.
Where a fault ends the process, Python's faulthandler writes there in which lines its threads were. It writes to one
place alone, so a `tee` takes that to standard error, too.
"""

from __future__ import annotations

import faulthandler
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.files import lost_its_maker, partial_prefix
from ...core.user_code import is_of_python
from ...core.user_functions import crash_notes

PACKAGE = Path(__file__).parents[2]
DIGEST_LETTERS = 64


@contextmanager
def note_crashes(database: Path) -> Iterator[None]:
    """Note the conditions that a crash in the block would be put down to."""
    file = database.parent / f"{partial_prefix(_maker_name(database))}txt"
    command, was_enabled = ["tee", "-a", str(file)], faulthandler.is_enabled()
    try:
        with (
            file.open("wb") as notes,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.__stderr__, start_new_session=True) as tee,
        ):

            def note(digest: str) -> None:
                os.pwrite(notes.fileno(), f"{digest}\n".encode(), 0)

            note("-" * DIGEST_LETTERS)
            crash_notes.append(note)
            faulthandler.enable(tee.stdin or 2)
            try:
                yield
            finally:
                faulthandler.disable()
                crash_notes.remove(note)
    finally:
        file.unlink(missing_ok=True)  # now that the program has ended, which makes it
        if was_enabled and sys.__stderr__:
            faulthandler.enable(sys.__stderr__)


def read_crashes(database: Path) -> dict[str, str]:
    """Read how earlier runs of this machine crashed: a line by the digest of the condition. Their files are removed."""
    name = _maker_name(database)
    crashes = {}
    for file in [file for file in database.parent.iterdir() if lost_its_maker(file, name.name)]:
        digest, _, words = file.read_text(encoding="utf-8", errors="replace").partition("\n")
        if fault := re.search("^Fatal Python error: (.+)$", words, re.MULTILINE):
            frames = re.findall(
                r'^  File "(.+)", line (\d+)', words.partition("Current thread")[2] or words, re.MULTILINE
            )
            lines = [
                f" in {Path(path).name}, line {line}"
                for path, line in frames
                if not (is_of_python(path) or Path(path).is_relative_to(PACKAGE))
            ]
            crashes[digest] = (
                f"it ended an earlier run: {fault[1]}{''.join(lines[:1])}; mend it, or run with --devices, where "
                "it ends its own cells alone"
            )
        file.unlink(missing_ok=True)
    return crashes


def _maker_name(database: Path) -> Path:
    """The name from which the hidden files are called; other commands on the database leave them alone."""
    return database.with_name(f"{database.name}.crash")
