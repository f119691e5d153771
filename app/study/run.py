"""From a study to rows: what is missing is run, and each range that comes back is committed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...analysis.comparison.gate import not_passed
from ...analysis.database.open import open_store
from ...analysis.database.snapshots import snapshots
from ...analysis.database.store import ClassNames, Store
from ...engine.attack import attack_info, run_attacks
from ...engine.backends.base import Session, arrays_of, open_session
from ...engine.cell_progress import RANGE_SECONDS, Outcome
from ...engine.run import run
from ...errors import BandlensError
from ...probes.grid import ATTACKS
from ...probes.images.decision_spaces import NAMES, decision_space
from ...probes.images.image_set import ImageSet
from ...protocol import CLASSES
from ...records import Cell, Failed, SessionInfo, Variant
from ..console import progress
from .file import Study, Work
from .plan import metrics_of

if TYPE_CHECKING:
    from .spread import Spread


MOST_GAPS = 4
"""Metrics that a study will lack, of which `run` names so many."""


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


def run_study(
    work: Work,
    database: Path,
    range_seconds: float = RANGE_SECONDS,
    require_gate: bool = False,
    spread: Spread | None = None,
    snapshot: Path | None = None,
) -> Summary:
    """Run what the database lacks of a study. Interrupt it at will: what was committed stays and is not run again.

    Args:
        work: the study.
        database: made if there is none.
        range_seconds: how much work may be lost.
        require_gate: raise BandlensError, rather than warn, where the study's precision has not passed its gate.
        spread: run in units that leave shards, here or on a cluster; what may be lost is then a unit for each worker.
        snapshot: a copy for readers, renewed now and then while this runs.
    """
    with open_store(database) as store:
        if snapshot:
            store.after_commit = snapshots(store, snapshot)
        _check_gate(work, store, require_gate)
        _tell_gaps(work)
        begin = partial(record, work, store)
        if spread:
            from .spread import run_spread

            return run_spread(work, store, begin, spread)
        return run_missing(work, store, begin, range_seconds)


def record(work: Work, store: Store) -> str:
    """Record the study and its cells; gives its label."""
    study = work.study
    return store.begin_study(study.name, study.toml, work.cells, work.image_sets, class_names(work))


def class_names(work: Work) -> ClassNames:
    """What the classes of each decision space are called; of `all`, where a model has those of ImageNet."""
    there = [name for name in NAMES if name != "all" or any(model.classes == CLASSES for model in work.models)]
    spaces = [decision_space(name) for name in there]
    return {space.name: dict(zip(space.ids, space.names, strict=True)) for space in spaces}


def run_missing(work: Work, store: Store, begin: Callable[[], str], range_seconds: float) -> Summary:
    """Run the cells that are not complete. `begin` records all of them and gives the label of the summary."""
    started = time.monotonic()
    done = store.progress(work.cells)
    todo = [(cell, done.get(cell.key, 0)) for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
    perturbed = [pair for pair in todo if pair[0].condition.probe not in ATTACKS]
    attacked = [pair for pair in todo if pair[0].condition.probe in ATTACKS]
    kept = Kept()
    # What they run on comes first: a study that cannot run must not take the place of its last version in the views.
    attackers = _attackers(attacked, work.study)
    with _sessions(perturbed, work.study) as sessions:
        label = begin()
        if perturbed:
            infos = {variant: session.info for variant, session in sessions.items()}
            _keep(_perturbed(work, perturbed, sessions, range_seconds), store, infos, kept)
    # Attacks come after the sessions are closed: they need the memory.
    if attacked:
        _keep(_attacked(work, attacked, range_seconds), store, attackers, kept)
    return Summary(label, len(work.cells), len(todo), kept.predictions, time.monotonic() - started, kept.failed)


def _check_gate(work: Work, store: Store, required: bool) -> None:
    """Warn of a precision that has not passed its gate, or refuse it."""
    missing, total = not_passed(store, work.cells, work.study.gate)
    if not missing:
        return
    variant = work.cells[0].variant
    message = (
        f"{variant.engine} {variant.precision} has not passed the precision gate for {missing} of {total} pairs of "
        f"checkpoint and condition; see: bandlens gate STUDY.toml --candidate {variant.engine}:{variant.precision} "
        f"--db {store.path}"
    )
    if required:
        raise BandlensError(message)
    print(f"bandlens: warning: {message}", file=sys.stderr)


def _tell_gaps(work: Work) -> None:
    """Say in one line which metrics the study has some conditions for, and not all that they need."""
    if gaps := [f"no {one}: {one.why}" for one in metrics_of(work) if one.why]:
        named = "; ".join(gaps[:MOST_GAPS]) + (f"; and {len(gaps) - MOST_GAPS} more" if len(gaps) > MOST_GAPS else "")
        print(f"bandlens: {named}; `bandlens plan` lists the metrics of a study", file=sys.stderr)


Todo = Sequence[tuple[Cell, int]]
"""Cells, each with the number of its images that are done."""


@dataclass(slots=True)
class Kept:
    """What was committed."""

    predictions: int = 0
    failed: list[Failed] = field(default_factory=list)


def _keep(ranges: Iterable[Sequence[Outcome]], store: Store, infos: Mapping[Variant, SessionInfo], kept: Kept) -> None:
    """Commit range by range."""
    for outcomes in ranges:
        store.commit(outcomes, infos)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                kept.failed.append(outcome)
            else:
                kept.predictions += len(outcome.predictions.predicted)


def _perturbed(
    work: Work, todo: Todo, sessions: Mapping[Variant, Session], range_seconds: float
) -> Iterator[list[Outcome]]:
    xp = arrays_of(todo[0][0].variant.engine)
    with progress("running", _images_left(todo), "predictions") as advance:
        for images in work.image_sets:
            yield from run(_about(images, todo), images, work.grid, sessions, xp, range_seconds, advance)


def _attacked(work: Work, todo: Todo, range_seconds: float) -> Iterator[list[Outcome]]:
    study = work.study
    with progress("attacking", _images_left(todo), "predictions") as advance:
        for images in work.image_sets:
            if mine := _about(images, todo):
                yield from run_attacks(mine, images, study.batch, study.thread_count, range_seconds, advance)


def _about(images: ImageSet, todo: Todo) -> Todo:
    return [(cell, first) for cell, first in todo if cell.image_set.digest == images.info.digest]


def _images_left(todo: Todo) -> int:
    return sum(cell.image_set.count - first for cell, first in todo)


def _attackers(todo: Todo, study: Study) -> dict[Variant, SessionInfo]:
    """What each network is attacked on."""
    variants = dict.fromkeys(cell.variant for cell, _ in todo)
    return {variant: attack_info(variant, study.batch, study.thread_count) for variant in variants}


@contextmanager
def _sessions(todo: Todo, study: Study) -> Iterator[dict[Variant, Session]]:
    """A session for each variant."""
    variants = list(dict.fromkeys(cell.variant for cell, _ in todo))
    with ExitStack() as stack:
        sessions = {}
        with progress("opening", len(variants), "models") as advance:
            for variant in variants:
                session = open_session(variant, study.batch, study.thread_count)
                sessions[variant] = stack.enter_context(session)
                advance()
        yield sessions
