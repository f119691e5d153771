"""Check that functions in memory still compute the stored predictions.

This is necessary because such a function is identified by its version alone, and its code may have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

import numpy as np

from ...analysis.database.store import Store
from ...core.errors import UsageError
from ...core.records import Cell, Finished
from ...engine.task_context import Workbench
from ...engine.tasks import Task
from ...export.model_files import FUNCTION

SAMPLE_IMAGES = 8
"""Maximum number of images of a stored cell that are recomputed for the check."""
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.01, 1e-4
"""Tolerances for equal probabilities. Libraries round differently if the batch size is different."""
STORED = """
SELECT predicted, confidence FROM prediction JOIN cell ON cell.id = prediction.cell
WHERE key = ? AND image_index < ? ORDER BY image_index
"""


def check_functions(
    cells: Sequence[Cell], probes: Collection[str], store: Store, bench: Workbench, checked: Collection[str] = ()
) -> set[str]:
    """Recompute some stored predictions of each function in memory and compare them with the database.

    Args:
        cells: Cells of a study.
        probes: Names of the probes that are functions in memory.
        store: Database that may contain predictions of the cells.
        bench: Workbench that computes the cells.
        checked: Functions that need no check.

    Returns:
        The functions for which predictions are stored.

    Raises:
        UsageError: A function computes predictions that differ from the stored ones.
    """
    concerned = [cell for cell in cells if any(_functions_of(cell, probes))]
    counts = store.progress(concerned) if concerned else {}
    samples: dict[str, Cell] = {}
    for cell in concerned:
        for function in _functions_of(cell, probes) if counts.get(cell.key) else ():
            samples.setdefault(function, cell)
    for function, cell in samples.items():
        if function not in checked:
            _check_sample(function, cell, min(counts[cell.key], SAMPLE_IMAGES), store, bench)
    return set(samples)


def _functions_of(cell: Cell, probes: Collection[str]) -> Iterator[str]:
    """Yield a description of each function in memory that the predictions of a cell depend on."""
    if cell.model.architecture == FUNCTION:
        yield f"function {cell.model.name}"
    if cell.condition.probe in probes:
        yield f"probe {cell.condition.probe}"


def _check_sample(function: str, cell: Cell, count: int, store: Store, bench: Workbench) -> None:
    """Recompute the first `count` images of a cell. Raise UsageError if the predictions differ from the stored ones."""
    stored = store.frame(STORED, [cell.key, count])
    with closing(bench.compute(Task((cell,)), last=count)) as parts:
        predictions = [outcome.predictions for part in parts for outcome in part if isinstance(outcome, Finished)]
    if not predictions:  # the function fails, which the run itself will report
        return
    predicted, confidence = (
        np.concatenate([getattr(part, name) for part in predictions]) for name in ("predicted", "confidence")
    )
    is_near = np.isclose(confidence, stored["confidence"].to_numpy(), RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
    differing = int((~is_near | (predicted != stored["predicted"].to_numpy())).sum())
    if differing:
        raise UsageError(
            f"{function} computes other predictions than those that are stored of its version ({differing} of "
            f"{count} images of {cell}); give it another version"
        )
