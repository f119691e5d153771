"""The record of a run: the label of its study, the names of its classes, and what it brought into the database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import BandlensError
from ...probes.images.decision_spaces import NAMES, decision_space
from ...protocol import CLASSES
from ...records import Cell, Failed

if TYPE_CHECKING:
    from ...analysis.database.store import ClassNames, Store
    from .resolve import Work


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

    def raise_failures(self) -> Summary:
        """This summary, where no cell failed; or BandlensError, which names the first."""
        if self.failed:
            first = self.failed[0]
            raise BandlensError(
                f"{len(self.failed)} of {self.cells} cells failed, the first: {first.cell}: {first.error}; "
                f"the others are stored, and the next run tries the failed ones again"
            )
        return self


@dataclass(slots=True)
class Committed:
    """The predictions and failures that a run has committed so far."""

    predictions: int = 0
    failed: list[Failed] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def summarize(self, label: str, cells: Sequence[Cell], missing: Sequence[Cell]) -> Summary:
        """The summary of a run over `cells`, of which `missing` were not complete before."""
        seconds = time.monotonic() - self.started
        ran = {cell.key for cell in missing} - {failure.cell.key for failure in self.failed}
        return Summary(label, len(cells), len(ran), self.predictions, seconds, self.failed)


def record_study(work: Work, store: Store) -> str:
    """Record the study and its cells; gives its label."""
    study = work.study
    return store.begin_study(study.name, study.toml, work.cells, work.image_sets, class_names(work))


def class_names(work: Work) -> ClassNames:
    """The names of the classes of each decision space; those of `all` where a model has the classes of ImageNet."""
    names = [name for name in NAMES if name != "all" or any(model.classes == CLASSES for model in work.models)]
    spaces = [decision_space(name) for name in names]
    return {space.name: dict(zip(space.ids, space.names, strict=True)) for space in spaces}


def missing_cells(cells: Sequence[Cell], done: Mapping[str, int]) -> list[Cell]:
    """The cells that lack images; `done` has the number of images that are stored of each key."""
    return [cell for cell in cells if done.get(cell.key, 0) < cell.image_set.count]


def images_left(cells: Sequence[Cell], done: Mapping[str, int]) -> int:
    """The number of predictions that the cells lack."""
    return sum(cell.image_set.count - done.get(cell.key, 0) for cell in cells)
