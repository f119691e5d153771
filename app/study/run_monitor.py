"""A monitor shows a run from outside: its progress, what it stored when a signal ended it, and where it crashed.

Progress and crashes are small files beside the database. They are partial files: they go when the job ends. The
progress is for whoever asks while the run holds the database itself; that of a killed process goes when the database is
next opened for writing.

The notes on crashes are for the next run, which removes them. They begin with the digest of the condition of a user's
probe that is at work. Where a fault ends the process, Python's faulthandler writes there in which lines its threads
were. It writes to one place alone, so a `tee` takes that to standard error, too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...core.custom.call import crash_notes
from ...core.custom.load import is_of_python
from ...core.files import lost_its_maker, open_draft, partial_prefix
from ...core.jobs import Advance, Progress, savers
from ...core.untrusted import as_record, parse_json, read_text

ENDING = "progress"
WRITE_SECONDS = 1.0
"""Seconds between two states that are written."""
PACKAGE = Path(__file__).parents[2]
DIGEST_LETTERS = 64


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a process was when it last wrote so."""

    activity: str
    """The present step of the job, such as `running`."""
    done: float
    total: float
    unit: str
    """The unit of `done` and `total`, such as `predictions`."""
    process: int
    host: str
    started: float
    """When the step began; seconds since 1970, as `written`."""
    written: float
    gone: bool = False
    """Whether the process has ended without ending its job; known of those of this machine alone."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds from now until the step is done, at the pace so far; None while nothing is done."""
        if not self.done or self.gone:
            return None
        pace = (self.written - self.started) / self.done
        return max(0.0, pace * (self.total - self.done) - (time.time() - self.written))


@dataclass(frozen=True, slots=True)
class RunMonitor:
    """The monitor of a run, which shows its progress, and serves those who ask while it runs or after it crashed."""

    database: Path
    shown_progress: Progress
    """Shows the progress to whoever started the run."""

    @contextmanager
    def progress(self, activity: str, total: float | None, unit: str) -> Iterator[Advance]:
        """Show the progress of a step, and write it to a file. A file that cannot be written ends no job."""
        file = self.database.parent / f"{partial_prefix(self.database)}{ENDING}"
        position, due, start = 0.0, 0.0, time.time()

        def advance(amount: float = 1, /) -> None:
            nonlocal position, due
            show(amount)
            position += amount
            if total and time.monotonic() >= due:
                state = RunProgress(
                    activity, position, float(total), unit, os.getpid(), socket.gethostname(), start, time.time()
                )
                due = time.monotonic() + WRITE_SECONDS
                with suppress(OSError), open_draft(self.database, clean=False) as draft:
                    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
                    draft.replace(file)

        with self.shown_progress(activity, total, unit) as show:
            try:
                advance(0)
                yield advance
            finally:
                with suppress(OSError):
                    file.unlink(missing_ok=True)

    @contextmanager
    def saving(self, save: Callable[[], str]) -> Iterator[None]:
        """Have a signal in the block call `save`, from another thread.

        It stores what is computed so far, and gives a message on what is stored.
        """
        savers.append(save)
        try:
            yield
        finally:
            savers.remove(save)

    @contextmanager
    def noting_crashes(self) -> Iterator[None]:
        """Note the conditions that a crash in the block would be put down to, for `read_crashes` of the next run."""
        file = self.database.parent / f"{partial_prefix(_maker_name(self.database))}txt"
        was_enabled = faulthandler.is_enabled()
        try:
            file.unlink(missing_ok=True)
            with (
                file.open("xb") as notes,
                subprocess.Popen(
                    ["tee", "-a", f"/dev/fd/{notes.fileno()}"],  # by its name it could be another file by now
                    stdin=subprocess.PIPE,
                    stdout=sys.__stderr__,
                    pass_fds=[notes.fileno()],
                    start_new_session=True,
                ) as tee,
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


def read_progress(database: Path) -> list[RunProgress]:
    """Read what the processes that write to a database last said of their progress; it is not opened."""
    # A host, as it stands in these names, and a number have no dot: r.2 is another database than r.
    match_database = re.compile(rf"\.{re.escape(database.name)}\.[\w-]+\.\d+\.{ENDING}").fullmatch
    states = []
    for file in sorted(file for file in database.parent.glob(f".*.{ENDING}") if match_database(file.name)):
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is gone by now, or somebody else's
            table = parse_json(read_text(file))
            states.append(as_record(RunProgress, table | {"gone": lost_its_maker(file, database.name)}))
    return states


def read_crashes(database: Path) -> dict[str, str]:
    """Read how earlier runs of this machine crashed: a line by the digest of the condition. Their files are removed."""
    name = _maker_name(database)
    crashes: dict[str, str] = {}
    if not database.parent.is_dir():  # who opens the database says so
        return crashes
    for file in [file for file in database.parent.iterdir() if lost_its_maker(file, name.name)]:
        is_note = file.is_file() and not file.is_symlink()  # and no link or pipe of somebody else's
        digest, _, words = (file.read_text("utf-8", "replace") if is_note else "").partition("\n")
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
        with suppress(OSError):  # a folder of somebody else's
            file.unlink(missing_ok=True)
    return crashes


def _maker_name(database: Path) -> Path:
    """The name from which the hidden files are called; other commands on the database leave them alone."""
    return database.with_name(f"{database.name}.crash")
