"""From a study to rows: what is missing is run, and each range that comes back is committed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..analysis.gate_verdict import not_passed
from ..analysis.store import Store, open_store
from ..engine.run import RANGE_SECONDS, Outcome, run
from ..engine.session import Session, arrays_of, open_session
from ..errors import BandlensError
from ..records import Cell, Failed, Variant
from .console import progress
from .study import Study, Work


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run went."""

    label: str
    """name@version of the study; of a gate, what is compared with what."""
    cells: int
    ran: int
    """Cells that were not complete before."""
    predictions: int
    seconds: float
    failed: list[Failed]


def run_study(work: Work, database: Path, range_seconds: float = RANGE_SECONDS, require_gate: bool = False) -> Summary:
    """Run what the database lacks of a study. Interrupt it at will: what was committed stays and is not run again.

    Args:
        work: the study.
        database: made if there is none.
        range_seconds: how much work may be lost.
        require_gate: raise BandlensError, rather than warn, where the study's precision has not passed its gate.
    """
    study = work.study
    with open_store(database) as store:
        _check_gate(work, store, require_gate)
        return run_missing(
            work, store, lambda: store.begin_study(study.name, study.toml, work.cells, work.image_sets), range_seconds
        )


def run_missing(work: Work, store: Store, begin: Callable[[], str], range_seconds: float) -> Summary:
    """Run the cells that are not complete. `begin` records all of them and gives the label of the summary."""
    started = time.monotonic()
    done = store.progress(work.cells)
    todo = [(cell, done.get(cell.key, 0)) for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
    # Sessions come first: a study that cannot run must not take the place of its last version in the views.
    with _sessions([cell.variant for cell, _ in todo], work.study) as sessions:
        label = begin()
        predictions, failed = 0, list[Failed]()
        for outcome in _run(work, todo, sessions, store, range_seconds) if todo else ():
            if isinstance(outcome, Failed):
                failed.append(outcome)
            else:
                predictions += len(outcome.predictions.predicted)
    return Summary(label, len(work.cells), len(todo), predictions, time.monotonic() - started, failed)


def _check_gate(work: Work, store: Store, required: bool) -> None:
    """Warn of a precision that has not passed its gate, or refuse it."""
    missing, total = not_passed(store, work.cells, work.study.gate)
    if not missing:
        return
    variant = work.cells[0].variant
    message = (
        f"{variant.backend} {variant.precision} has not passed the precision gate for {missing} of {total} pairs of "
        f"checkpoint and condition; see: bandlens gate STUDY.toml --candidate {variant.backend}:{variant.precision} "
        f"--db {store.path}"
    )
    if required:
        raise BandlensError(message)
    print(f"bandlens: warning: {message}", file=sys.stderr)


def _run(
    work: Work,
    todo: Sequence[tuple[Cell, int]],
    sessions: Mapping[Variant, Session],
    store: Store,
    range_seconds: float,
) -> Iterator[Outcome]:
    """Every outcome, once it is committed."""
    infos = {variant: session.info for variant, session in sessions.items()}
    total = sum(cell.image_set.count - first for cell, first in todo)
    xp = arrays_of(todo[0][0].variant.backend)
    with progress("running", total, "predictions") as advance:
        for images in work.image_sets:
            cells = [(cell, first) for cell, first in todo if cell.image_set.digest == images.info.digest]
            for outcomes in run(cells, images, work.grid, sessions, xp, range_seconds, advance):
                store.commit(outcomes, infos)
                yield from outcomes


@contextmanager
def _sessions(variants: Sequence[Variant], study: Study) -> Iterator[dict[Variant, Session]]:
    """A session for each variant."""
    distinct = list(dict.fromkeys(variants))
    with ExitStack() as stack:
        sessions = {}
        with progress("opening", len(distinct), "models") as advance:
            for variant in distinct:
                session = open_session(variant, study.batch, study.thread_count)
                sessions[variant] = stack.enter_context(session)
                advance()
        yield sessions
