"""The record of a run: the label of its study, the names of its classes, and what it brought into the database."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...core.errors import BandlensError, plural, some_of
from ...core.jobs import savers
from ...core.log import log
from ...core.protocol import CLASSES, SPACE_CLASSES
from ...core.records import Cell, Failed, SessionInfo, Variant
from ...engine.device.nvidia import throttling
from ...engine.tasks import Outcome
from ...probes.images.decision_spaces import decision_space
from ...probes.images.image_set import Earlier, earlier_sets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...analysis.database.store import ClassNames, Store
    from ...probes.images.image_set import ImageSet
    from .resolve import Work


TRAITS = {
    "cell.condition": "concat_ws(' ', probe, setting)",
    "cell.checkpoint": "study_checkpoint.name",
    "onnx_sha256": "study_checkpoint.name",
    "cell.image_set": "concat(study_image_set.name, ' (', count, ' images)')",
    "engine": "concat('engine ', engine)",
    "precision": "precision",
    "seed": "concat('seed ', seed)",
}
"""Traits of cells by which versions of a study differ, and the words for a value, in SQL."""
MOST_CONDITIONS = 12
"""The number of conditions that are named with one error."""


def failures_in_words(failed: Sequence[Failed]) -> list[str]:
    """A line for each error, with the conditions whose cells have it."""
    cells: dict[str, list[Cell]] = {}
    for failure in failed:
        cells.setdefault(failure.error, []).append(failure.cell)
    return [
        f"{some_of(dict.fromkeys(str(cell.condition) for cell in members), MOST_CONDITIONS)} failed "
        f"({plural(len(members), 'cell')}): {error}"
        for error, members in cells.items()
    ]


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of a run: its cells, predictions, time and failures."""

    label: str
    """The study's name@version; for a gate, the variants that it compares."""
    cells: int
    ran: int
    """The number of cells that this run completed; those that failed are not among them."""
    predictions: int
    seconds: float
    failed: list[Failed]
    verdict: list[str] = field(default_factory=list)
    """The sentences on what the models live on, as `Results.verdict` gives them; none where the run did not analyze."""

    def raise_failures(self) -> Summary:
        """This summary, where no cell failed; or BandlensError, which names the first."""
        if self.failed:
            first, count = self.failed[0], len(self.failed)
            clause = "the others are stored, and " if count < self.cells else ""
            raise BandlensError(
                f"{count} of {self.cells} cells failed, the first: {first.cell}: {first.error}; "
                f"{clause}the next run tries the failed ones again"
            )
        return self


@dataclass
class RunRecord:
    """The account of what a run has committed so far. A thread stores a range while the next one is computed.

    Ranges are committed one after another, in their order. Where one fails, its error comes with the next range or at
    the end of the block, and nothing that comes after it is committed.
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
    """Lines on cards that ran more slowly than they could."""
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
        """Store what is computed of an interrupted run, in whichever thread; gives words on what is stored."""
        self._begin_saving().result()
        stored = sum(self._stored.get(cell.key, 0) for cell in self.cells)
        total = sum(cell.image_set.count for cell in self.cells)
        left = "what workers have not answered is given away"
        if self.computed is not None:
            new = sum(self._stored.values()) - self._stored_before
            left = f"{max(self.computed - new, 0):,} that were computed are given away"
        return f"{stored:,} of {total:,} predictions are stored, and {left}"

    def _begin_saving(self) -> Future[None]:
        with self._save_lock:
            self._saved = self._saved or self._thread.submit(lambda: self._store_range(self.pending(), self.sessions))
            return self._saved

    def _wait(self) -> None:
        future, self._under_way = self._under_way, None
        if future is not None:
            future.result()

    def __enter__(self) -> Self:
        savers.append(self.save)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._begin_saving()
        self._thread.shutdown()
        savers.remove(self.save)
        if kind is None:
            self._wait()

    def summarize(self) -> Summary:
        """The summary of the run."""
        seconds = time.monotonic() - self.start
        completed_keys = {cell.key for cell in self.todo} - {failure.cell.key for failure in self.failed}
        return Summary(str(self.label), len(self.cells), len(completed_keys), self.predictions, seconds, self.failed)


def record_study(work: Work, store: Store) -> str:
    """Record the study and its cells, with the predictions that can be reused; gives its label."""
    study = work.study
    labels = store.frame("SELECT label FROM study_version WHERE study = ? ORDER BY study_id", [study.name])["label"]
    label = store.begin_study(study.name, study.toml, work.cells, work.image_sets, class_names(work))
    if len(labels) and label not in labels:
        log.info(f"bandlens: {label} is a new version of {labels[-1]}: {_changes_in_words(store, labels[-1], label)}")
    reuse_predictions(work, store)
    return label


def _changes_in_words(store: Store, earlier_label: str, label: str) -> str:
    """Conditions, models, images and engines that one version of a study has in place of those of an earlier one."""
    query = (
        "SELECT DISTINCT {} AS identity, {} AS text FROM study_version "
        "JOIN study_cell ON study_cell.study = study_id JOIN cell ON cell.id = study_cell.cell "
        "JOIN condition ON condition.id = cell.condition JOIN image_set ON image_set.id = cell.image_set "
        "JOIN study_checkpoint ON (study_checkpoint.study, study_checkpoint.checkpoint) = (study_id, cell.checkpoint) "
        "JOIN study_image_set ON (study_image_set.study, study_image_set.image_set) = (study_id, cell.image_set) "
        "WHERE label = ? ORDER BY text"
    )
    changes = []
    for trait in TRAITS.items():
        values_a, values_b = (dict(store.frame(query.format(*trait), [name]).rows()) for name in (earlier_label, label))
        in_words = _conditions_in_words if trait[0] == "cell.condition" else some_of
        new = in_words([text for identity, text in values_b.items() if identity not in values_a])
        gone = in_words([text for identity, text in values_a.items() if identity not in values_b])
        if new and gone:
            changes.append(f"{new}, made anew" if new == gone else f"{new} instead of {gone}")
        elif new or gone:
            changes.append(f"also {new}" if new else f"without {gone}")
    return "; ".join(dict.fromkeys(changes)) or "other combinations of these"


def _conditions_in_words(conditions: Sequence[str]) -> str:
    """A few conditions; or their number under each probe, where they are many or have several parameters."""
    if len(conditions) <= 3 and not any(", " in condition for condition in conditions):
        return some_of(conditions)
    counts = Counter(condition.partition(" ")[0] for condition in conditions)
    return some_of(f"{plural(count, 'condition')} of {probe}" for probe, count in counts.items())


def reuse_predictions(work: Work, store: Store) -> None:
    """Give recorded cells without predictions those that can be reused."""
    for places, pairs in _find_reusable(work, store, store.progress(work.cells)):
        store.reuse(places, pairs)


def stored_images(work: Work, store: Store) -> dict[str, int]:
    """Cell key -> number of its images that are done: those that are stored, or will be as soon as it is recorded."""
    image_counts = store.progress(work.cells)
    donor_counts = {key: count for _, pairs in _find_reusable(work, store, image_counts) for key, _, count in pairs}
    return image_counts | donor_counts


def _find_reusable(
    work: Work, store: Store, image_counts: Mapping[str, int]
) -> Iterator[tuple[NDArray[np.int64], list[tuple[str, str, int]]]]:
    """Predictions of cells on sets that the study's image sets were before images came or went, or a limit grew.

    Yields where the first images of such a set lay before, and triples: the key of a cell that has no predictions yet,
    that of one that has some of these images and is the same otherwise, and how many of them it has. A probe of the
    user's may ask for an image's place, so its predictions are reused where that has not changed.
    """
    empty_cells = {cell.key: cell for cell in work.cells if not image_counts.get(cell.key)}
    for images in work.image_sets:
        for old_set in (*reversed(earlier_sets(images)), *_smaller_draws(images, store)):
            has_moved = not np.array_equal(old_set.places, np.arange(len(old_set.places)))
            donors = {
                replace(cell, image_set=replace(cell.image_set, digest=old_set.digest)): cell
                for cell in empty_cells.values()
                if cell.image_set.digest == images.info.digest
                and not (has_moved and work.grid.family(cell.condition).files is not None)
            }
            donor_counts = store.progress(list(donors))
            counts = {donor: np.searchsorted(old_set.places, donor_counts.get(donor.key, 0)) for donor in donors}
            pairs = [(cell.key, donor.key, int(counts[donor])) for donor, cell in donors.items() if counts[donor]]
            if pairs:
                yield old_set.places, pairs
                for key, _, _ in pairs:
                    del empty_cells[key]


def _smaller_draws(images: ImageSet, store: Store) -> Iterator[Earlier]:
    """Yield the sets of the database that are the first images of a set, as those of a smaller limit are."""
    query = "SELECT digest, count FROM image_set WHERE name = ? AND size = ? AND count < ? ORDER BY count DESC"
    for digest, count in store.frame(query, [images.info.name, images.info.size, images.info.count]).rows():
        if images.select(np.arange(count)).info.digest == digest:
            yield Earlier(digest, np.arange(count))


def class_names(work: Work) -> ClassNames:
    """The names of the classes of each decision space; those of `all` where a model has the classes of ImageNet."""
    names = [*SPACE_CLASSES, *(["all"] if any(model.classes == CLASSES for model in work.models) else [])]
    spaces = [decision_space(name) for name in names]
    return {space.name: dict(zip(space.ids, space.names, strict=True)) for space in spaces}


def missing_cells(cells: Sequence[Cell], image_counts: Mapping[str, int]) -> list[Cell]:
    """The cells that lack images; `image_counts` has the number of images that are stored of each key."""
    return [cell for cell in cells if image_counts.get(cell.key, 0) < cell.image_set.count]


def images_left(cells: Sequence[Cell], image_counts: Mapping[str, int]) -> int:
    """The number of predictions that the cells lack."""
    return sum(cell.image_set.count - image_counts.get(cell.key, 0) for cell in cells)
