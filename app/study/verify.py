"""Checks that a results database agrees with itself, with its files, and with cells that are computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...analysis.database.integrity import Check, check_database
from ...analysis.database.open import open_store
from ...analysis.database.store import Store
from ...core.errors import BandlensError, UsageError
from ...core.jobs import Progress, silent
from ...core.records import Cell, Finished, SessionInfo
from ...engine.tasks import Task
from ...export.model_files import read_verified
from ...probes.images.image_set import check_image_set
from .resolve import Work


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A range of a cell's images, computed again."""

    cell: Cell
    first: int
    images: int
    differing: int
    """Images with another predicted class."""
    confidence: float
    """The largest difference of a confidence."""
    same_session: bool
    """Whether device, batch, threads and versions are those that it was computed with."""


@dataclass(frozen=True, slots=True)
class Verified:
    checks: list[Check]
    recomputed: list[Recomputed]

    @property
    def problems(self) -> list[str]:
        return [problem for check in self.checks for problem in check.problems]


def verify_database(database: Path) -> Verified:
    """Check that a database agrees with itself, which needs no study."""
    with open_store(database, read_only=True) as store:
        return Verified(check_database(store), [])


def verify_study(
    work: Work, database: Path, cells: int, images: int, seed: int, progress: Progress = silent
) -> Verified:
    """Check the database, the study's files, and `cells` random cells by computing `images` of each again.

    Raises UsageError for fewer than 0 cells or 1 image.
    """
    if cells < 0 or images < 1:
        raise UsageError(f"{cells} cells, {images} images of each: give 0 cells or more, and 1 image or more")
    with open_store(database, read_only=True) as store:
        checks = [*check_database(store), _check_files(work, progress)]
        recomputed = list(_recompute(work, store, _draw_ranges(work, store, cells, images, seed), progress))
    limit = work.study.gate.flips
    problems = [
        f"{part.cell}: {part.differing} of {part.images} images from {part.first} on are predicted otherwise"
        for part in recomputed
        # On the same machine nothing may differ; on another, what a precision gate lets pass.
        if part.differing > (0 if part.same_session else limit * part.images)
    ]
    return Verified([*checks, Check("recomputed", len(recomputed), problems)], recomputed)


def _check_files(work: Work, progress: Progress) -> Check:
    """Check that the pixels of the image sets, and the ONNX files, are those that the cells name."""
    problems = []
    variants = list(dict.fromkeys(cell.variant for cell in work.cells))
    for images in work.image_sets:
        try:
            check_image_set(images.folder, progress=progress)
        except BandlensError as error:
            problems.append(str(error))
    for variant in variants:
        try:
            read_verified(variant.path, variant.sha256, f"export {variant.model.name} again")
        except BandlensError as error:
            problems.append(str(error))
    return Check("files", len(work.image_sets) + len(variants), problems)


def _draw_ranges(work: Work, store: Store, cells: int, images: int, seed: int) -> list[Task]:
    """Random cells of those that are stored, each with a random range of its images that begins with a batch."""
    random, batch = np.random.default_rng(seed), work.study.batch
    image_counts = store.progress(work.cells)
    stored_cells = [cell for cell in work.cells if image_counts.get(cell.key, 0)]
    sample = [stored_cells[row] for row in sorted(random.permutation(len(stored_cells))[:cells])]
    firsts = [batch * int(random.integers(-(-image_counts[cell.key] // batch))) for cell in sample]
    return [
        Task((cell,), first, min(first + images, image_counts[cell.key]))
        for cell, first in zip(sample, firsts, strict=True)
    ]


def _recompute(work: Work, store: Store, tasks: Sequence[Task], progress: Progress) -> Iterator[Recomputed]:
    total = sum(task.predictions for task in tasks)
    with progress("recomputing", total, "predictions") as advance, work.workbench() as bench:
        for task in tasks:
            (part,) = [outcome for outcomes in bench.compute(task) for outcome in outcomes]
            if not isinstance(part, Finished):
                raise BandlensError(f"{part.cell}: {part.error}; it was stored without that")
            yield _compare_part(store, part, bench.infos()[part.cell.variant])
            advance(task.predictions)


def _compare_part(store: Store, part: Finished, info: SessionInfo) -> Recomputed:
    predictions, count = part.predictions, len(part.predictions.predicted)
    rows = store.frame(
        "SELECT predicted, confidence FROM prediction JOIN cell ON cell.id = prediction.cell "
        "WHERE key = ? AND image_index >= ? AND image_index < ? ORDER BY image_index",
        [part.cell.key, part.first, part.first + count],
    )
    if len(rows) != count:  # an inconsistency, which has its own check
        return Recomputed(part.cell, part.first, count, count, 1.0, same_session=True)
    sessions = store.frame(
        "SELECT DISTINCT device, batch, threads, versions::VARCHAR AS versions FROM part "
        "JOIN session ON session.id = part.session JOIN cell ON cell.id = part.cell WHERE key = ?",
        [part.cell.key],
    )
    same = sessions.rows() == [(info.device, info.batch, info.threads, info.versions)]
    apart = np.abs(rows["confidence"].to_numpy() - predictions.confidence)
    differing = int((rows["predicted"] != pl.Series(predictions.predicted)).sum())
    return Recomputed(part.cell, part.first, count, differing, float(apart.max()), same)
