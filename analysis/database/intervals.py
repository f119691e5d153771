"""Compute the 95% confidence intervals that are stored with complete cells.

Each cell has one interval for its accuracy with respect to the labels that define `label_rank`. If the image set has no
labels, the interval is that of the agreement with the clean predictions instead. Each additional label scheme of the
image set has another interval. The intervals are computed from counts of correct predictions; `statistics.wilson`
contains the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from ..statistics.wilson import SampledShare, counted_share, independent_share

CELLS_AT_ONCE = 500
"""Number of cells per query, which bounds its memory."""
SCHEMA = {"cell": pl.Int32, "scheme": pl.String, "ci_low": pl.Float64, "ci_high": pl.Float64}
COUNTS = """
WITH asked AS (SELECT unnest(?::INTEGER[]) AS cell), counted AS (
    -- Each of these reads the predictions of the cells that were asked for alone.
    SELECT part.cell, NULL AS scheme, NULL AS cluster, false AS clustered, sum(count)::BIGINT AS n,
           sum(right1)::BIGINT AS correct
    FROM part SEMI JOIN asked USING (cell) JOIN cell_detail AS detail ON detail.cell = part.cell
    WHERE detail.labelled AND NOT detail.clustered
    GROUP BY part.cell
    UNION ALL
    SELECT prediction.cell, NULL, image.cluster, true, count(*), sum((prediction.label_rank = 0)::INTEGER)::BIGINT
    FROM prediction SEMI JOIN asked USING (cell) JOIN cell_detail AS detail ON detail.cell = prediction.cell
    JOIN image ON image.image_set = detail.image_set_id AND image.image_index = prediction.image_index
    WHERE detail.labelled AND detail.clustered
    GROUP BY prediction.cell, image.cluster
    UNION ALL
    -- Where there is no clean prediction to agree with, the sum is NULL.
    SELECT outcome.cell, NULL, CASE WHEN detail.clustered THEN outcome.cluster END, detail.clustered, count(*),
           sum(outcome.correct::INTEGER)::BIGINT
    FROM cell_outcome AS outcome SEMI JOIN asked USING (cell) JOIN cell_detail AS detail ON detail.cell = outcome.cell
    WHERE NOT outcome.labelled AND NOT outcome.itself
    GROUP BY ALL
    UNION ALL
    SELECT outcome.cell, outcome.scheme, CASE WHEN detail.clustered THEN outcome.cluster END, detail.clustered,
           count(*), sum(outcome.correct::INTEGER)::BIGINT
    FROM cell_label_outcome AS outcome SEMI JOIN asked USING (cell)
    JOIN cell_detail AS detail ON detail.cell = outcome.cell
    WHERE NOT own_scheme(outcome.scheme)
    GROUP BY ALL
)
SELECT cell, scheme, clustered, n, correct, count(*) AS clusters FROM counted GROUP BY ALL ORDER BY ALL
"""
"""Query for counts of correct predictions in given complete cells (`cell.id`).

Each row contains the number of clusters with `n` images and `correct` correct predictions. Independent images form a
single row. `scheme` is NULL for the labels that define `label_rank`, and for agreement with the clean predictions.
"""


def compute_intervals(counts: pl.DataFrame) -> pl.DataFrame:
    """Compute one confidence interval per cell and label scheme.

    Args:
        counts: Rows of the query `COUNTS`.

    Returns:
        Rows with the columns of `SCHEMA`. Both ends are NULL if the interval is undefined.
    """
    rows = [
        (cell, scheme, *_interval(group, is_clustered=bool(clustered)))
        for (cell, scheme, clustered), group in counts.group_by("cell", "scheme", "clustered", maintain_order=True)
    ]
    return pl.DataFrame(rows, SCHEMA, orient="row")


def _interval(counts: pl.DataFrame, is_clustered: bool) -> tuple[float, float] | tuple[None, None]:
    """Compute the interval of a proportion.

    Return (None, None) if counts are unknown, or impossible because the file is damaged.
    """
    correct, n, clusters = (counts[name].to_numpy() for name in ("correct", "n", "clusters"))
    if counts["correct"].null_count() or not ((correct >= 0) & (correct <= n) & (n > 0)).all():
        return None, None
    if is_clustered:
        return _ends(counted_share(np.repeat(correct, clusters), np.repeat(n, clusters)))
    return _ends(independent_share(int(correct[0]), int(n[0])))


def clustered_interval(correct: Sequence[int], counts: Sequence[int]) -> list[float]:
    """Compute the confidence interval of a proportion over clustered images.

    SQL calls this function under the same name for proportions that are not stored in a table; see
    `catalogue.TemporaryViews`.

    Args:
        correct: Number of correct predictions in each cluster, in any order.
        counts: Number of images in each cluster, in the same order.

    Returns:
        The lower and the upper end of the interval.
    """
    # DuckDB passes the clusters in no particular order. Sorting them makes the rounding errors of sums reproducible.
    pairs = np.array(sorted(zip(counts, correct, strict=True)), np.int64)
    return list(_ends(counted_share(pairs[:, 1], pairs[:, 0])))


def _ends(share: SampledShare) -> tuple[float, float]:
    low, high = share.ends()
    return float(low), float(high)


def batches(cells: Sequence[int]) -> Iterable[list[int]]:
    """Split cells into lists of at most `CELLS_AT_ONCE`."""
    return ([*cells[first : first + CELLS_AT_ONCE]] for first in range(0, len(cells), CELLS_AT_ONCE))
