"""Writes the results of a run: a thread stores a range of images while the next one is computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ...core.records import Cell, Failed, SessionInfo, Variant
from ...engine.device.nvidia import throttling
from ...engine.tasks import Outcome
from .reuse import missing_cells
from .summary import Summary, format_stored

if TYPE_CHECKING:
    from ...analysis.database.store import Store


@dataclass
class ResultWriter:
    """Stores the outcomes of a run range by range, and counts them.

    Ranges are committed one after another, in their order. Where one fails, its error is raised by the next `commit` or
    at the end of the block, and nothing that comes after it is committed.
    """

    cells: Sequence[Cell]
    store: Store
    record_cells: Callable[[], str]
    """Records all cells, and gives the label of the summary."""
    image_counts: dict[str, int]
    """Cell key -> number of its images that are stored."""
    pending: Callable[[], Sequence[Outcome]] = tuple
    """Gives what is computed and not yet committed, once the run is interrupted."""
    sessions: Callable[[], Mapping[Variant, SessionInfo]] = dict
    """Gives the sessions that computed it."""
    computed: int | None = None
    """The number of predictions that were computed so far; None where workers do, and have not answered yet."""
    label: str | None = None
    predictions: int = 0
    failed: list[Failed] = field(default_factory=list)
    throttled: dict[str, None] = field(default_factory=dict)
    """Lines on GPUs that ran more slowly than they could."""
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.todo = missing_cells(self.cells, self.image_counts)
        """The cells that were not complete before."""
        self._thread = ThreadPoolExecutor(1, "commit")
        self._under_way: Future[None] | None = None
        self._stored = dict(self.image_counts)
        """Cell key -> number of its images that the thread has stored."""
        self._stored_before = sum(self._stored.values())
        self._saved: Future[None] | None = None
        self._save_lock = threading.Lock()

    def begin(self) -> None:
        """Record the cells, unless they are recorded."""
        self.label = self.label or self.record_cells()

    def commit(self, outcomes: Sequence[Outcome], sessions: Callable[[], Mapping[Variant, SessionInfo]] = dict) -> None:
        """Store the outcomes of a range, and count them; the thread asks for the sessions that computed them."""
        self._wait()
        if self._saved is not None:  # the run is interrupted
            return
        self._under_way = self._thread.submit(self._store_range, outcomes, sessions)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                self.failed.append(outcome)
            else:
                count = len(outcome.predictions.predicted)
                self.predictions += count
                self.image_counts[outcome.cell.key] = outcome.first + count

    def _store_range(self, outcomes: Sequence[Outcome], sessions: Callable[[], Mapping[Variant, SessionInfo]]) -> None:
        # An interrupted run may have given a range away: what comes after that is left out.
        outcomes = [
            outcome
            for outcome in outcomes
            if isinstance(outcome, Failed) or outcome.first == self._stored.get(outcome.cell.key, 0)
        ]
        if not outcomes:
            return
        infos = sessions()
        self.store.commit(outcomes, infos)
        for outcome in outcomes:
            if not isinstance(outcome, Failed):
                self._stored[outcome.cell.key] = outcome.first + len(outcome.predictions.predicted)
        self.throttled |= dict.fromkeys(filter(None, (throttling(info.card) for info in infos.values())))

    def save(self) -> str:
        """Store what is computed of an interrupted run, in whichever thread; gives a message on what is stored."""
        self._begin_saving().result()
        stored = sum(self._stored.get(cell.key, 0) for cell in self.cells)
        new = sum(self._stored.values()) - self._stored_before
        lost = None if self.computed is None else max(self.computed - new, 0)
        return format_stored(stored, sum(cell.image_set.count for cell in self.cells), lost)

    def _begin_saving(self) -> Future[None]:
        with self._save_lock:
            self._saved = self._saved or self._thread.submit(lambda: self._store_range(self.pending(), self.sessions))
            return self._saved

    def _wait(self) -> None:
        future, self._under_way = self._under_way, None
        if future is not None:
            future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._begin_saving()
        self._thread.shutdown()
        if kind is None:
            self._wait()

    def summarize(self) -> Summary:
        """Summarize the run."""
        seconds = time.monotonic() - self.start
        completed_keys = {cell.key for cell in self.todo} - {failure.cell.key for failure in self.failed}
        return Summary(str(self.label), len(self.cells), len(completed_keys), self.predictions, seconds, self.failed)
