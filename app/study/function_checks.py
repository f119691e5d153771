"""A check that functions in memory still compute what is stored of them, since their versions alone identify them."""

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
"""The most images of a stored cell that are computed again."""
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.01, 1e-4
"""The difference that two probabilities may have: libraries round otherwise in a batch of another size."""
STORED = """
SELECT predicted, confidence FROM prediction JOIN cell ON cell.id = prediction.cell
WHERE key = ? AND image_index < ? ORDER BY image_index
"""


def check_functions(
    cells: Sequence[Cell], probes: Collection[str], store: Store, bench: Workbench, checked: Collection[str] = ()
) -> set[str]:
    """Compute some stored images of each function in memory again, and return the functions of which some are stored.

    Args:
        cells: the cells of a study.
        probes: the names of the probes that are functions in memory.
        store: the database that may have predictions of the cells.
        bench: what computes the cells.
        checked: functions to leave out.

    Raises UsageError where a function computes other predictions than those that are stored.
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
    """Yield what errors call the functions in memory that the predictions of a cell depend on."""
    if cell.model.architecture == FUNCTION:
        yield f"function {cell.model.name}"
    if cell.condition.probe in probes:
        yield f"probe {cell.condition.probe}"


def _check_sample(function: str, cell: Cell, count: int, store: Store, bench: Workbench) -> None:
    """Raise UsageError where the first `count` images of a cell get other predictions than those that are stored."""
    stored = store.frame(STORED, [cell.key, count])
    with closing(bench.compute(Task((cell,)), last=count)) as parts:
        predictions = [outcome.predictions for part in parts for outcome in part if isinstance(outcome, Finished)]
    if not predictions:  # it fails now, which the run says of its cells
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
