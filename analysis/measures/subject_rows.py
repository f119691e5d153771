"""The rows of a subject, one checkpoint on one image set: of all measures that read no other subject.

A few subjects are computed in this process, and many in processes beside it (`SubjectProcesses`), whose rows are the
same.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType
from typing import Any

import polars as pl
from threadpoolctl import threadpool_limits

from ...core.errors import EngineError
from ...core.parallel import end_with_parent, processors
from .base import CACHE_IMAGES, NUMBERS, Estimate, Measure, Options, State, all_less_clean, nothing
from .outcomes import SUBJECT_KEYS, CellOutcomes, ConditionKey, Outcomes
from .registry import CONDITION_MEASURES, GRID_MEASURES, lacking

Row = dict[str, Any]
SCHEMA = {
    **{name: pl.Int32 if name.endswith("_id") else pl.String for name in (*SUBJECT_KEYS, *ConditionKey._fields)},
    "metric": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(NUMBERS, pl.Float64),
    **dict.fromkeys(("state", "note"), pl.String),
}
"""Columns of the values of a study. The condition is null for numbers of many conditions, and the image set for means
over benchmarks."""
FEWEST_SUBJECTS = 16
"""Subjects from which on processes are worth the second that they take to start."""
MOST_PROCESSES = 8
"""Processes that are kept busy by one that reads predictions for them: that takes a fifth of the time of the rest."""


def subject_rows(
    outcomes: Outcomes,
    options: Options,
    grid: Sequence[Measure[Outcomes]] = GRID_MEASURES,
    condition: Sequence[Measure[CellOutcomes]] = CONDITION_MEASURES,
) -> pl.DataFrame:
    """Rows of SCHEMA: first those of many conditions, and then those of each."""
    rows = [*_grid_rows(grid, outcomes, options), *_condition_rows(condition, outcomes, options)]
    keys = {name: pl.lit(getattr(outcomes.subject, name), SCHEMA[name]) for name in SUBJECT_KEYS}
    return pl.DataFrame(rows, SCHEMA).with_columns(**keys)


@contextmanager
def open_processes(subjects: int) -> Iterator[SubjectProcesses | None]:
    """Give processes that compute the rows of so many subjects, or None where they are not worth their start."""
    count = min(processors(), subjects // FEWEST_SUBJECTS + 1, MOST_PROCESSES)
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count, get_context("spawn"), _prepare_process) as pool:
        yield SubjectProcesses(pool, count)


class SubjectProcesses:
    """Processes that compute rows of the built-in measures, each of one subject at a time."""

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self._count = pool, count
        self._pending = deque[Future[pl.DataFrame]]()

    def compute(self, outcomes: Outcomes, options: Options) -> Future[pl.DataFrame]:
        """Have a process compute the rows of a subject, once there is one for it: see `wait_for`."""
        while len(self._pending) > self._count:  # one more, so that no process waits
            wait_for(self._pending.popleft())
        # A process would run the user's program once more, which need not be written for that.
        program, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            future = self._pool.submit(subject_rows, outcomes, options)
        except BrokenProcessPool:
            raise _ended() from None
        finally:
            sys.modules["__main__"] = program
        self._pending.append(future)
        return future


def wait_for(future: Future[pl.DataFrame]) -> pl.DataFrame:
    """Give the rows of a subject; raises EngineError where a process ended, and what it raised."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise _ended() from None


def _ended() -> EngineError:
    return EngineError("analyzing failed: a process of it was ended, perhaps for want of memory; analyze again")


def _prepare_process() -> None:
    """Have a process end with the one that started it, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    threadpool_limits(1)  # arrays are small, and threads of the linear algebra would wait for each other


def row_of(name: str, estimate: Estimate) -> Row:
    return {"metric": name} | estimate.row()


def estimates_of(measures: Iterable[Measure[Any]], outcomes: Any, options: Options) -> Iterator[tuple[str, Estimate]]:
    """The estimates of measures, each function called once."""
    for function in dict.fromkeys(measure.estimates for measure in measures if measure.estimates):
        yield from function(outcomes, options).items()


def _grid_rows(measures: Sequence[Measure[Outcomes]], outcomes: Outcomes, options: Options) -> Iterator[Row]:
    """Rows of the columns from metric on. A bias that lacks a condition has a row that says so."""
    lacks = lacking(measures, outcomes.available)
    applicable = [measure for measure in measures if measure.name in lacks]
    for measure in applicable:
        if (why := lacks[measure.name]) and measure.is_bias:
            yield row_of(measure.name, nothing(State.MISSING, why))
    complete = [measure for measure in applicable if not lacks[measure.name]]
    for name, estimate in estimates_of(complete, outcomes, options):
        if not lacks.get(name):
            yield row_of(name, estimate)


def _condition_rows(measures: Sequence[Measure[CellOutcomes]], outcomes: Outcomes, options: Options) -> Iterator[Row]:
    """Rows of the columns from condition_id on, for every condition."""
    available = outcomes.available
    applicable = [measure for measure in measures if measure.applies(available) and not measure.needs(available)]
    estimates = {measure.name: [*_mean_estimates(measure, outcomes)] for measure in applicable if measure.values}
    for place, (condition, cell) in enumerate(outcomes.cells.items()):
        keys = condition.key._asdict()
        for name, by_place in estimates.items():
            if estimate := by_place[place]:
                yield keys | row_of(name, estimate)
        for name, estimate in estimates_of(applicable, cell, options):
            yield keys | row_of(name, estimate)


def _mean_estimates(measure: Measure[CellOutcomes], outcomes: Outcomes) -> Iterator[Estimate | None]:
    """Yield the mean over images of a measure that has `values`, under each condition; None where there are none."""
    read_values = measure.values or (lambda _: None)
    clusters, cells = outcomes.images.clusters, [*outcomes.cells.values()]
    clean_values = read_values(outcomes.clean) if outcomes.clean else None
    clean = clean_values.share(clusters) if clean_values and clean_values.comparable else None
    most = max(1, CACHE_IMAGES // len(clusters))
    for block in (cells[first : first + most] for first in range(0, len(cells), most)):
        values = [read_values(cell) for cell in block]
        shares = [image_values and image_values.share(clusters) for image_values in values]
        references = [None if cell.is_clean else clean for cell, share in zip(block, shares, strict=True) if share]
        estimates = iter(all_less_clean([share for share in shares if share], references))
        for image_values, share in zip(values, shares, strict=True):
            if image_values is None:
                yield None
            else:
                yield (
                    image_values.judge(next(estimates))
                    if share
                    else nothing(State.UNDETERMINED, image_values.uncounted, 0)
                )
