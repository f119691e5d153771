"""The summary of a run, and the messages about failed cells and stored predictions that are printed of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...core.errors import BandlensError, plural, some_of
from ...core.records import Cell, Failed

MAX_NAMED_CONDITIONS = 12
"""The number of conditions that are named with one error."""


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


def summarize_failures(failed: Sequence[Failed]) -> list[str]:
    """Format a line for each error, with the conditions whose cells have it."""
    cells: dict[str, list[Cell]] = {}
    for failure in failed:
        cells.setdefault(failure.error, []).append(failure.cell)
    return [
        f"{some_of(dict.fromkeys(str(cell.condition) for cell in members), MAX_NAMED_CONDITIONS)} failed "
        f"({plural(len(members), 'cell')}): {error}"
        for error, members in cells.items()
    ]


def format_stored(stored: int, total: int, lost: int | None) -> str:
    """Format how many predictions an interrupted run has stored of all, and how many are lost.

    `lost` is None where workers compute, since they have not answered yet.
    """
    words = "what workers have not answered is" if lost is None else f"{lost:,} that were computed are"
    return f"{stored:,} of {total:,} predictions are stored, and {words} given away"
