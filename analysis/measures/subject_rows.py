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

from ...errors import EngineError
from ...processors import processors
from ...user_function import ChannelProcess, receive_answer
from ...user_process import open_channel
from ..statistics.shares import Share
from .base import Estimate, Measure, Options, State, less_clean, nothing
from .outcomes import SUBJECT_KEYS, CellOutcomes, Outcomes
from .registry import CONDITION_MEASURES, GRID_MEASURES, lacking

Row = dict[str, Any]
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
) -> list[Row]:
    """Rows of `compute.SCHEMA`: first those of many conditions, and then those of each. Columns may be left out."""
    keys = {name: getattr(outcomes.subject, name) for name in SUBJECT_KEYS}
    return [
        keys | row for row in (*_grid_rows(grid, outcomes, options), *_condition_rows(condition, outcomes, options))
    ]


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
        self._busy = deque[tuple[ChannelProcess, Callable[[list[Row]], None]]]()
        """Processes, the one that began first in front, and who gets their rows."""

    def compute(self, outcomes: Outcomes, receive: Callable[[list[Row]], None]) -> None:
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
    clean_shares = _shares(applicable, outcomes.clean) if outcomes.clean else {}
    for stored, cell in outcomes.cells.items():
        keys = stored.key._asdict()
        shares = clean_shares if cell.is_clean else _shares(applicable, cell)
        for measure in applicable:
            estimate = shares.get(measure.name)
            if isinstance(estimate, Share):
                clean = clean_shares.get(measure.name) if measure.against_clean and not cell.is_clean else None
                estimate = measure.judge(cell, less_clean(estimate, clean if isinstance(clean, Share) else None))
            if estimate:
                yield keys | row_of(measure.name, estimate)
        for name, estimate in estimates_of(applicable, cell, options):
            yield keys | row_of(name, estimate)


def _shares(measures: Iterable[Measure[CellOutcomes]], cell: CellOutcomes) -> dict[str, Share | Estimate]:
    """Name -> mean over images, or the estimate that says why there is none, of each measure that has `values`."""
    image_values = {measure.name: measure.values(cell) for measure in measures if measure.values}
    return {
        name: values.share(cell.images.clusters) or nothing(State.UNDETERMINED, values.uncounted, 0)
        for name, values in image_values.items()
        if values
    }


def main() -> None:
    channel = open_channel()
    with suppress(EOFError, OSError):  # the command is gone
        sys.path[:], (options,) = channel.receive()
        while True:
            outcomes = channel.receive()
            answer: tuple[list[Row] | None, Exception | None]
            try:
                answer = subject_rows(outcomes, options), None
            except Exception as error:  # noqa: BLE001 - the command raises it
                answer = None, error
            channel.send(answer)


if __name__ == "__main__":
    main()
