"""The rows of a subject, one checkpoint on one image set: of all measures that read no other subject.

A few subjects are computed in this process, and many in processes beside it (`SubjectProcesses`), whose rows are the
same. Such a process is this module, run as a program: its first message has the options, each later one the outcomes of
a subject, and each answer is rows and None, or None and what was raised.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import polars as pl

from ...core.errors import EngineError
from ...core.threads import processors
from ...user_function import ChannelProcess, receive_answer
from ...user_process import open_channel
from .base import CACHE_IMAGES, NUMBERS, Estimate, Measure, Options, State, all_less_clean, nothing
from .outcomes import SUBJECT_KEYS, CellOutcomes, ConditionKey, Outcomes
from .registry import CONDITION_MEASURES, GRID_MEASURES, lacking

Row = dict[str, Any]
Receive = Callable[[pl.DataFrame], None]
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
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""The environment of a process: its arrays are small, and threads of the linear algebra would wait for each other."""


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
def open_processes(subjects: int, options: Options) -> Iterator[SubjectProcesses | None]:
    """Give processes that compute the rows of so many subjects, or None where they are not worth their start."""
    count = min(processors(), subjects // FEWEST_SUBJECTS + 1, MOST_PROCESSES)
    if count == 1:
        yield None
        return
    processes = SubjectProcesses(count, options)
    try:
        yield processes
    finally:
        processes.end()


class SubjectProcesses:
    """Processes that compute rows of the built-in measures, each of one subject at a time."""

    def __init__(self, count: int, options: Options) -> None:
        self._idle = [ChannelProcess(__name__, options, **THREADS) for _ in range(count)]
        self._busy = deque[tuple[ChannelProcess, Receive]]()
        """Processes, the one that began first in front, and who gets their rows."""

    def compute(self, outcomes: Outcomes, receive: Receive) -> None:
        """Have a process compute the rows of a subject. `receive` gets them later, in a call of this or of `finish`.

        Raises EngineError where a process ended, and what it raised.
        """
        if not self._idle:
            self._receive_first()
        process = self._idle.pop()
        process.send(outcomes)
        self._busy.append((process, receive))

    def finish(self) -> None:
        """Receive all rows that are missing; raises as `compute` does."""
        while self._busy:
            self._receive_first()

    def _receive_first(self) -> None:
        process, receive = self._busy.popleft()
        rows, error = receive_answer(process, math.inf, "analyzing failed", EngineError)
        if error is not None:
            raise error
        receive(rows)
        self._idle.append(process)

    def end(self) -> None:
        """End the processes, whatever they are busy with."""
        for process in (*self._idle, *(process for process, _ in self._busy)):
            process.end()


def row_of(name: str, estimate: Estimate) -> Row:
    return {"metric": name} | estimate.row()


def estimates_of(measures: Iterable[Measure[Any]], read: Any, options: Options) -> Iterator[tuple[str, Estimate]]:
    """The estimates of measures, each function called once."""
    for function in dict.fromkeys(measure.estimates for measure in measures if measure.estimates):
        yield from function(read, options).items()


def _grid_rows(measures: Sequence[Measure[Outcomes]], outcomes: Outcomes, options: Options) -> Iterator[Row]:
    """Rows of the columns from metric on. A bias that lacks a condition has a row that says so."""
    lacks = lacking(measures, outcomes.available)
    applicable = [measure for measure in measures if measure.name in lacks]
    for measure in applicable:
        if (why := lacks[measure.name]) and measure.is_bias:
            yield row_of(measure.name, nothing(State.MISSING, why))
    determined = [measure for measure in applicable if not lacks[measure.name]]
    for name, estimate in estimates_of(determined, outcomes, options):
        if not lacks.get(name):
            yield row_of(name, estimate)


def _condition_rows(measures: Sequence[Measure[CellOutcomes]], outcomes: Outcomes, options: Options) -> Iterator[Row]:
    """Rows of the columns from condition_id on, for every condition."""
    available = outcomes.available
    applicable = [measure for measure in measures if measure.applies(available) and not measure.needs(available)]
    estimates = {measure.name: [*_mean_estimates(measure, outcomes)] for measure in applicable if measure.values}
    for place, (stored, cell) in enumerate(outcomes.cells.items()):
        keys = stored.key._asdict()
        for name, of_conditions in estimates.items():
            if estimate := of_conditions[place]:
                yield keys | row_of(name, estimate)
        for name, estimate in estimates_of(applicable, cell, options):
            yield keys | row_of(name, estimate)


def _mean_estimates(measure: Measure[CellOutcomes], outcomes: Outcomes) -> Iterator[Estimate | None]:
    """Yield the mean over images of a measure that has `values`, under each condition; None where there are none."""
    read = measure.values or (lambda _: None)
    clusters, cells = outcomes.images.clusters, [*outcomes.cells.values()]
    clean_values = read(outcomes.clean) if outcomes.clean else None
    clean = clean_values.share(clusters) if clean_values and clean_values.comparable else None
    most = max(1, CACHE_IMAGES // len(clusters))
    for block in (cells[first : first + most] for first in range(0, len(cells), most)):
        values = [read(cell) for cell in block]
        shares = [of_cell and of_cell.share(clusters) for of_cell in values]
        references = [None if cell.is_clean else clean for cell, share in zip(block, shares, strict=True) if share]
        estimates = iter(all_less_clean([share for share in shares if share], references))
        for of_cell, share in zip(values, shares, strict=True):
            if of_cell is None:
                yield None
            else:
                yield of_cell.judge(next(estimates)) if share else nothing(State.UNDETERMINED, of_cell.uncounted, 0)


def main() -> None:
    channel = open_channel()
    with suppress(EOFError, OSError):  # the command is gone
        sys.path[:], (options,) = channel.receive()
        while True:
            outcomes = channel.receive()
            answer: tuple[pl.DataFrame | None, Exception | None]
            try:
                answer = subject_rows(outcomes, options), None
            except Exception as error:  # noqa: BLE001 - the command raises it
                answer = None, error
            channel.send(answer)


if __name__ == "__main__":
    main()
