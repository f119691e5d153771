"""Precision gates of a study: two precisions run on the same perturbed images, and what differs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from ...advance import Progress, silent
from ...analysis.comparison.gate import gate_cells
from ...analysis.comparison.verdicts import Limits
from ...analysis.database.open import open_store
from ...engine.backends.base import engine_of
from ...engine.cell_progress import RANGE_SECONDS
from ...engine.tasks import by_attack
from ...errors import UsageError
from .file import Study
from .progress_file import keep_progress
from .record import Summary, class_names
from .resolve import Work, resolve
from .run import run_whole


@dataclass(frozen=True, slots=True)
class Gated:
    ran: Summary
    rows: pl.DataFrame
    """Rows of the view `gate`, one for each checkpoint, image set and condition that both precisions have."""
    limits: Limits
    """The limits of the study's table [gate], which the verdicts are by."""


def gate_study(
    study: Study,
    database: Path,
    reference: str,
    candidate: str,
    range_seconds: float = RANGE_SECONDS,
    progress: Progress = silent,
) -> Gated:
    """Run the cells that the database lacks of both, each batch perturbed once for the two, and compare them.

    `reference` and `candidate` are a precision of the study's engine, or ENGINE:PRECISION. The cells belong to no
    study, so that its views show one precision. Interrupt it at will: what was committed stays and is not run again.
    """
    works = _resolved(study, "reference", reference), _resolved(study, "candidate", candidate)
    names = [f"{work.study.engine}:{work.study.precision}" for work in works]
    # A finished file of another precision runs at its own, whichever is asked for.
    pairs = [pair for pair in zip(works[0].cells, works[1].cells, strict=True) if pair[0] != pair[1]]
    if not pairs:
        raise UsageError(f"{names[0]} would be compared with itself; name another: --candidate ENGINE:PRECISION")
    arrays = [engine_of(work.study.engine).arrays for work in works]
    if arrays[0] != arrays[1]:
        raise UsageError(
            f"{names[0]} takes {arrays[0]} arrays and {names[1]} {arrays[1]} ones, so they cannot share perturbed "
            "images; name two engines of the CPU, or two of the GPU"
        )
    both = replace(works[0], cells=list(dict.fromkeys(cell for work in works for cell in work.cells)))
    with open_store(database) as store:

        def begin() -> str:
            store.add_cells(both.cells, both.image_sets, class_names(both))
            return f"{names[1]} against {names[0]}"

        ran = run_whole(
            both, store, begin, store.progress(both.cells), range_seconds, keep_progress(database, progress)
        )
        total = len(both.models) * len(both.image_sets)
        with progress("comparing", total, "checkpoints and image sets") as advance:
            return Gated(ran, gate_cells(store, pairs, study.gate, advance), study.gate)


def _resolved(study: Study, option: str, text: str) -> Work:
    engine, _, precision = text.rpartition(":")
    if not precision or (":" in text and not engine):
        raise UsageError(f"--{option} must be PRECISION or ENGINE:PRECISION, such as openvino:int8, not '{text}'")
    work = resolve(replace(study, engine=engine or study.engine, precision=precision))
    # Attacks have a precision of their own.
    return replace(work, cells=by_attack(work.cells)[0])
