"""From a study to rows: what is missing is run, and each range that comes back is committed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..analysis.store import Store, open_store
from ..engine.run import run
from ..engine.session import BACKENDS, Session, open_session
from ..probes.arrays import array_module
from ..records import Cell, Failed, Model
from .console import progress
from .study import Study, Work, resolve


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run went."""

    label: str
    """name@version of the study."""
    cells: int
    ran: int
    """Cells that were not complete before."""
    predictions: int
    seconds: float
    failed: list[Failed]


def run_study(study: Study, database: Path) -> Summary:
    """Run what the database lacks of a study. Interrupt it at will: what was committed stays and is not run again."""
    work = resolve(study)
    started = time.monotonic()
    with open_store(database) as store:
        done = store.progress(work.cells)
        label = store.begin_study(study.name, study.toml, work.cells, work.image_sets)
        todo = [(cell, done.get(cell.key, 0)) for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
        total = sum(cell.image_set.count - first for cell, first in todo)
        failed: list[Failed] = []
        if todo:
            failed = _run(work, todo, store, total)
        return Summary(label, len(work.cells), len(todo), total, time.monotonic() - started, failed)


def _run(work: Work, todo: Sequence[tuple[Cell, int]], store: Store, total: int) -> list[Failed]:
    failed: list[Failed] = []
    needed = {cell.model.sha256: cell.model for cell, _ in todo}
    with _sessions(list(needed.values()), work.study) as sessions, progress("running", total, "predictions") as advance:
        infos = {sha256: session.info for sha256, session in sessions.items()}
        xp = array_module(BACKENDS[work.study.engine])
        for images in work.image_sets:
            cells = [(cell, first) for cell, first in todo if cell.image_set.digest == images.info.digest]
            for outcomes in run(cells, images, work.grid, sessions, xp, progress=advance):
                store.commit(outcomes, infos)
                failed += [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    return failed


@contextmanager
def _sessions(models: Sequence[Model], study: Study) -> Iterator[dict[str, Session]]:
    with ExitStack() as stack:
        yield {
            model.sha256: stack.enter_context(
                open_session(model, study.engine, study.precision, study.batch, study.thread_count)
            )
            for model in models
        }
