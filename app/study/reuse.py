"""Predictions that a run does not compute: those that are stored of its cells, and those of other image sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...core.records import Cell
from ...probes.images.image_set import Earlier, earlier_sets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...analysis.database.store import Store
    from ...probes.images.image_set import ImageSet
    from .resolve import Work


class Reusable(NamedTuple):
    """Predictions on an earlier image set that cells of a study can take, as `Store.reuse` does it."""

    places: NDArray[np.int64]
    """(k,) where the first k images of the study's set lie in the earlier one."""
    pairs: list[tuple[str, str, int]]
    """The key of a cell without predictions, that of a cell on the earlier set, and the number of images of both."""


@dataclass(frozen=True, slots=True)
class StoredPredictions:
    """The predictions that a database has for the cells of a study."""

    image_counts: dict[str, int]
    """Cell key -> number of its images whose predictions are stored or can be reused."""
    reusable: list[Reusable]


def find_stored(work: Work, store: Store) -> StoredPredictions:
    """Find the predictions that are stored of a study's cells, and those that can be reused once it is recorded."""
    image_counts = store.progress(work.cells)
    reusable = list(_find_reusable(work, store, image_counts))
    reused_counts = {key: count for _, pairs in reusable for key, _, count in pairs}
    return StoredPredictions(image_counts | reused_counts, reusable)


def missing_cells(cells: Sequence[Cell], image_counts: Mapping[str, int]) -> list[Cell]:
    """The cells that lack images; `image_counts` has the number of images that are stored of each key."""
    return [cell for cell in cells if image_counts.get(cell.key, 0) < cell.image_set.count]


def count_remaining(cells: Sequence[Cell], image_counts: Mapping[str, int]) -> int:
    """Count the predictions that the cells lack."""
    return sum(cell.image_set.count - image_counts.get(cell.key, 0) for cell in cells)


def _find_reusable(work: Work, store: Store, image_counts: Mapping[str, int]) -> Iterator[Reusable]:
    """Find predictions on sets that the study's image sets were before images came or went, or a limit grew.

    A custom probe may ask for an image's place, so its predictions are reused only where that has not changed.
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
                yield Reusable(old_set.places, pairs)
                for key, _, _ in pairs:
                    del empty_cells[key]


def _smaller_draws(images: ImageSet, store: Store) -> Iterator[Earlier]:
    """Yield the sets of the database that are the first images of a set, as those of a smaller limit are."""
    query = "SELECT digest, count FROM image_set WHERE name = ? AND size = ? AND count < ? ORDER BY count DESC"
    for digest, count in store.frame(query, [images.info.name, images.info.size, images.info.count]).rows():
        if images.select(np.arange(count)).info.digest == digest:
            yield Earlier(digest, np.arange(count))
