"""Verify that the tables of a results database are consistent with each other.

The checks compare ranges of predictions with the predictions themselves, stored counts and confidence intervals with
recomputed ones, ranks with labels, and image sets with their images.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ...core.records import SEVERAL
from .catalogue import tables
from .intervals import SCHEMA as INTERVAL_SCHEMA
from .store import Store

MEMORY_LIMIT = "512MB"
"""Memory limit of DuckDB during the checks.

Aggregates per cell and label need little memory, whatever the size of the database.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one consistency rule."""

    name: str
    checked: int
    """Number of cells, image sets or other rows that the rule was applied to."""
    problems: list[str]


NAMED_CELLS = """
SELECT cell.id, cell.complete, image_set.id AS image_set, image_set.count AS images, image_set.labelled,
       format('{}, {}, {} {}', coalesce(named.name, checkpoint.name), coalesce(shown.name, image_set.name),
              condition.probe, condition.parameters) AS name
FROM cell JOIN checkpoint ON checkpoint.id = cell.checkpoint JOIN image_set ON image_set.id = cell.image_set
JOIN condition ON condition.id = cell.condition
LEFT JOIN (SELECT cell, max(study) AS study FROM study_cell GROUP BY cell) AS latest ON latest.cell = cell.id
LEFT JOIN study_checkpoint AS named ON named.study = latest.study AND named.checkpoint = cell.checkpoint
LEFT JOIN study_image_set AS shown ON shown.study = latest.study AND shown.image_set = cell.image_set
"""
"""Cells with readable names.

Checkpoints and image sets are named as in the most recent study that contains the cell. Cells that belong to no study,
such as those of a precision gate, get the names in the tables `checkpoint` and `image_set`.
"""
CELLS = f"""
WITH known_cell AS ({NAMED_CELLS}), ordered AS (
    SELECT cell, first, count, right1, right5,
           coalesce(sum(count) OVER before, 0) AS reached
    FROM part
    WINDOW before AS (PARTITION BY cell ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), parts AS (
    SELECT cell, sum(count) AS n, sum(right1) AS right1, sum(right5) AS right5, bool_and(first = reached) AS in_a_row
    FROM ordered GROUP BY cell
), predictions AS (
    SELECT cell, count(*) AS n, sum(hash(image_index)::HUGEINT) AS fingerprint, count(label_rank) AS ranked,
           count(*) FILTER (label_rank < 1) AS right1, right5_of(label_rank) AS right5,
           count(confidence) AS known, count(*) FILTER (confidence BETWEEN 0 AND 1.000001) AS probable,
           count(label_probability) IN (0, count(label_rank))
               AND coalesce(bool_and(label_probability BETWEEN 0 AND 1.000001), true) AS probable_labels
    FROM prediction GROUP BY cell
), expected AS (
    SELECT n, (SELECT sum(hash(i::UINTEGER)::HUGEINT) FROM range(n) AS numbers(i)) AS fingerprint
    FROM (SELECT DISTINCT n::BIGINT AS n FROM parts)
)
SELECT known_cell.name,
       complete = (coalesce(parts.n, 0) = images) AND coalesce(parts.n, 0) <= images AS whole,
       coalesce(in_a_row, true) AS in_a_row,
       coalesce(predictions.n, 0) = coalesce(parts.n, 0)
           AND predictions.fingerprint IS NOT DISTINCT FROM expected.fingerprint AS each_once,
       coalesce(ranked, 0) = if(labelled, coalesce(predictions.n, 0), 0) AND probable IS NOT DISTINCT FROM known
           AND coalesce(known, 0) IN (0, coalesce(predictions.n, 0)) AND coalesce(probable_labels, true) AS in_range,
       NOT labelled OR (coalesce(parts.right1, 0) = coalesce(predictions.right1, 0)
           AND parts.right5 IS NOT DISTINCT FROM predictions.right5) AS sums
FROM known_cell LEFT JOIN parts ON parts.cell = known_cell.id LEFT JOIN predictions ON predictions.cell = known_cell.id
LEFT JOIN expected ON expected.n = parts.n
ORDER BY known_cell.id
"""  # noqa: S608 - made of constants
RULES = {
    "whole": "is called complete and is not, or the other way round",
    "in_a_row": "has parts that overlap or leave a gap",
    "each_once": "lacks predictions that its parts count, or has some twice",
    "in_range": "has ranks or label_probabilities without labels, labels without ranks, or label_probabilities or "
    "confidences that are no probabilities",
    "sums": "has sums of right answers that are not those of its predictions",
}
LABELS = f"""
SELECT known_cell.name, count(*) FILTER ((label_rank = 0) <> (predicted = class OR
       (label.image_set, label.image_index, predicted) IN (SELECT image_set, image_index, class FROM label
                                                           WHERE scheme = '{SEVERAL}'))) AS wrong
FROM prediction JOIN ({NAMED_CELLS}) AS known_cell ON known_cell.id = prediction.cell
JOIN label ON label.image_set = known_cell.image_set AND label.image_index = prediction.image_index
    AND own_scheme(label.scheme)
GROUP BY ALL ORDER BY name
"""  # noqa: S608 - made of constants
STORED_INTERVALS = f"""
SELECT stored.*, known_cell.name
FROM (
    SELECT id AS cell, NULL::VARCHAR AS scheme, ci_low, ci_high FROM cell WHERE complete OR ci_low IS NOT NULL
    UNION ALL FROM label_interval
) AS stored
JOIN ({NAMED_CELLS}) AS known_cell ON known_cell.id = stored.cell
ORDER BY cell, scheme
"""  # noqa: S608 - made of constants
INTERVAL_TOLERANCE = 1e-9
"""Largest difference between equal interval ends. Other versions of the libraries may round differently."""
IMAGES = """
SELECT name, image_set.count <> (SELECT count(*) FROM image WHERE image.image_set = image_set.id) AS wrong
FROM image_set ORDER BY name
"""
DANGLING_CELLS = """
SELECT key, checkpoint.id IS NULL OR image_set.id IS NULL OR condition.id IS NULL AS dangles
FROM cell LEFT JOIN checkpoint ON checkpoint.id = cell.checkpoint LEFT JOIN image_set ON image_set.id = cell.image_set
LEFT JOIN condition ON condition.id = cell.condition
ORDER BY cell.id
"""
FACTS = " UNION ALL ".join(
    f"SELECT '{name}.{column} ' || {column}, json_type({column}) IS DISTINCT FROM 'OBJECT' "  # noqa: S608 - constants
    f"FROM {name} WHERE {column} IS NOT NULL"
    for name, table in tables().items()
    for column, kind in table.columns.items()
    if kind == "JSON"
)
OTHER_RULES = {
    "labels": (LABELS, "{} has {} ranks that do not fit prediction and label"),
    "images": (IMAGES, "image set {} has another number of images than it says"),
    "references": (DANGLING_CELLS, "cell {} is of something that is not in the database"),
    "facts": (FACTS, "{} is no JSON object"),
}
"""Rule -> its query and a template for the problem message.

Each row of the query contains a name and either a Boolean that is true if the rule is violated, or the number of
violations.
"""


def check_database(store: Store) -> list[Check]:
    """Apply every consistency rule to the database.

    Args:
        store: The open database. Its memory limit is lowered to `MEMORY_LIMIT`.

    Returns:
        One result per rule. Its `problems` are empty if the rule is satisfied.
    """
    # The checks read every prediction twice, and DuckDB caches what it has read up to its memory limit.
    store.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    cells = store.frame(CELLS)
    checks = [
        Check(
            rule.replace("_", " "),
            len(cells),
            [f"{name} {words}" for name, holds in cells.select("name", rule).rows() if not holds],
        )
        for rule, words in RULES.items()
    ]
    for name, (query, words) in OTHER_RULES.items():
        rows = store.frame(query).rows()
        checks.append(Check(name, len(rows), [words.format(*row) for row in rows if row[1]]))
    return [*checks, _check_intervals(store)]


def _check_intervals(store: Store) -> Check:
    """Compare the stored confidence intervals with intervals recomputed from the predictions."""
    stored = store.frame(STORED_INTERVALS)
    cells = store.frame("SELECT id FROM cell WHERE complete ORDER BY id")["id"].to_list()
    computed = pl.concat([pl.DataFrame(schema=INTERVAL_SCHEMA), *store.read_intervals(cells)])
    pairs = stored.join(
        computed, on=["cell", "scheme"], how="full", nulls_equal=True, coalesce=True, maintain_order="left_right"
    )
    differs = [
        ((pl.col(end) - pl.col(f"{end}_right")).abs() > INTERVAL_TOLERANCE).fill_null(
            pl.col(end).is_null() != pl.col(f"{end}_right").is_null()
        )
        for end in ("ci_low", "ci_high")
    ]
    names = pairs.filter(pl.any_horizontal(differs)).select(pl.coalesce("name", pl.format("cell {}", "cell")), "scheme")
    problems = [
        f"{name} has an interval{f' by the labels {scheme}' if scheme else ''} that is not that of its predictions"
        for name, scheme in names.rows()
    ]
    return Check("intervals", len(stored), problems)
