"""The progress of a run, which it keeps in a small file beside its database for whoever asks while it holds that.

It is a partial file, which goes when the job ends; that of a killed process goes when the database is next opened for
writing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...core.files import lost_its_maker, open_draft, partial_prefix
from ...core.jobs import Advance, Progress
from ...core.untrusted import as_record, parse_json, read_text

ENDING = "progress"
WRITE_SECONDS = 1.0
"""Seconds between two states that are written."""


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


def keep_progress(database: Path, progress: Progress) -> Progress:
    """`progress`, which keeps a file beside the database as well. A file that cannot be written ends no job."""
    file = database.parent / f"{partial_prefix(database)}{ENDING}"

    @contextmanager
    def keep(activity: str, total: float | None, unit: str) -> Iterator[Advance]:
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
                with suppress(OSError), open_draft(database, clean=False) as draft:
                    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
                    draft.replace(file)

        with progress(activity, total, unit) as show:
            try:
                advance(0)
                yield advance
            finally:
                with suppress(OSError):
                    file.unlink(missing_ok=True)

    return keep


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
