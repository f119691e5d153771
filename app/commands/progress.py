"""`bandlens progress`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import BandlensError
from .. import api
from ..console import TableFormat, duration, print_rows
from ..formats import Format
from .options import Database

if TYPE_CHECKING:
    from ..study.progress_file import RunProgress


def progress(
    db: Database = Path("results.duckdb"),
    table_format: TableFormat = Format.table,
) -> None:
    """Say how far the run is that holds a results database, and how long it will take; the database is not opened.

    Exit status 1 says that the process of a run was killed.

    Example: bandlens progress --db results.duckdb
    """
    states = api.studies.run_progress(db)
    if table_format != Format.table:
        print_rows([asdict(state) | {"seconds_left": state.seconds_left} for state in states], table_format)
    elif not states:
        print(f"{db}: no run writes to it")
    for state in states:
        counted = (
            f"{state.done:,.0f} of {state.total:,.0f} {state.unit} ({state.done / state.total:.0%}), process "
            f"{state.process} on {state.host}"
        )
        if state.gone:
            raise BandlensError(
                f"{db}: a run was killed while {state.activity}, after {counted}; run the same command again, "
                "which goes on with what was committed"
            )
        if table_format == Format.table:
            print(f"{db}: {state.activity}, {counted}, {_times(state)}")


def _times(state: RunProgress) -> str:
    """The time that is left, and the age of the figures."""
    left = "time left not known yet" if state.seconds_left is None else f"about {duration(state.seconds_left)} left"
    return f"as of {duration(max(0.0, time.time() - state.written))} ago; {left}"
