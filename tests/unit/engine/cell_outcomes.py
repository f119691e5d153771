"""Outcomes of a run by cell, and whether they are those of another run of the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bandlens.core.records import Failed, Finished

Row = tuple[int, int, int, float, float]
"""The predicted class, the rank of the label, that of the best right class, the confidence, the probability of the
label; -1 where there is no label."""


@dataclass
class CellOutcomes:
    """The results of a run by the keys of its cells."""

    parts: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """The first image and the number of images of each part."""
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """The row of each image."""
    failed: dict[str, str] = field(default_factory=dict)
    transactions: list[list[str]] = field(default_factory=list)
    """The cells of each list of outcomes that the run yielded."""
    progress: int = 0

    def advance(self, amount: int) -> None:
        self.progress += amount

    def keep(self, outcomes: Iterable[Finished | Failed]) -> None:
        """Keep what a run yields at once; nothing may come after the failure of a cell."""
        self.transactions.append([])
        for outcome in outcomes:
            key = outcome.cell.key
            self.transactions[-1].append(key)
            assert key not in self.failed
            if isinstance(outcome, Failed):
                self.failed[key] = outcome.error
                continue
            assert outcome.seconds > 0
            columns = outcome.predictions
            count = len(columns.predicted)
            label_ranks, best_ranks, probabilities = (
                [-1] * count if column is None else column.tolist()
                for column in (columns.label_rank, columns.best_rank, columns.label_probability)
            )
            decided = columns.predicted.tolist(), label_ranks, best_ranks, columns.confidence.tolist(), probabilities
            rows = list(zip(*decided, strict=True))
            self.parts.setdefault(key, []).append((outcome.first, count))
            self.rows.setdefault(key, []).extend(rows)


def check_rows(rows: Sequence[Row], expected: Sequence[Row], rtol: float = 1e-4) -> None:
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3:] for row in rows], [row[3:] for row in expected], rtol=rtol)


def check_cut(outcomes: CellOutcomes, uncut: CellOutcomes, starts: Mapping[str, int], count: int, rtol: float) -> None:
    """The rows from each cell's start on are those of the whole run, in parts that follow each other to the end."""
    assert not outcomes.failed
    assert outcomes.rows.keys() == {key for key, start in starts.items() if start < count}
    for key, rows in outcomes.rows.items():
        check_rows(rows, uncut.rows[key][starts[key] :], rtol)
        ends = [first + length for first, length in outcomes.parts[key]]
        assert [first for first, _ in outcomes.parts[key]] == [starts[key], *ends[:-1]]
        assert ends[-1] == count, "parts end with the last image, without padding"
    assert outcomes.progress == sum(count - start for start in starts.values())
