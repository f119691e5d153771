"""Whether a results database agrees with itself: parts, predictions, sums, labels."""

from __future__ import annotations

from dataclasses import dataclass

from .store import Store


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, and what does not hold."""

    name: str
    checked: int
    """How many cells or image sets."""
    problems: list[str]


NAMED = """
SELECT cell.id, cell.complete, image_set.id AS image_set, image_set.count AS images, image_set.labelled,
       format('{}, {}, {} {}', coalesce(named.name, checkpoint.name), coalesce(shown.name, image_set.name),
              condition.probe, condition.parameters) AS name
FROM cell JOIN checkpoint ON checkpoint.id = cell.checkpoint JOIN image_set ON image_set.id = cell.image_set
JOIN condition ON condition.id = cell.condition
LEFT JOIN (SELECT cell, max(study) AS study FROM study_cell GROUP BY cell) AS latest ON latest.cell = cell.id
LEFT JOIN study_checkpoint AS named ON named.study = latest.study AND named.checkpoint = cell.checkpoint
LEFT JOIN study_image_set AS shown ON shown.study = latest.study AND shown.image_set = cell.image_set
"""
"""Cells as the last study that has them calls them; those of no study, such as a gate's, by the names in the tables."""
CELLS = f"""
WITH described AS ({NAMED}), ordered AS (
    SELECT cell, first, count, right1, right5,
           coalesce(sum(count) OVER before, 0) AS reached
    FROM part
    WINDOW before AS (PARTITION BY cell ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), parts AS (
    SELECT cell, sum(count) AS n, sum(right1) AS right1, sum(right5) AS right5, bool_and(first = reached) AS in_a_row
    FROM ordered GROUP BY cell
), stored AS (
    SELECT cell, count(*) AS n, sum(hash(image_index)::HUGEINT) AS fingerprint, count(label_rank) AS ranked,
           count(*) FILTER (label_rank < 1) AS right1, right5_of(label_rank) AS right5,
           count(confidence) AS known, count(*) FILTER (confidence BETWEEN 0 AND 1.000001) AS probable
    FROM prediction GROUP BY cell
), wanted AS (
    SELECT n, (SELECT sum(hash(i::UINTEGER)::HUGEINT) FROM range(n) AS numbers(i)) AS fingerprint
    FROM (SELECT DISTINCT n::BIGINT AS n FROM parts)
)
SELECT described.name,
       complete = (coalesce(parts.n, 0) = images) AND coalesce(parts.n, 0) <= images AS whole,
       coalesce(in_a_row, true) AS in_a_row,
       coalesce(stored.n, 0) = coalesce(parts.n, 0)
           AND stored.fingerprint IS NOT DISTINCT FROM wanted.fingerprint AS each_once,
       coalesce(ranked, 0) = if(labelled, coalesce(stored.n, 0), 0) AND probable IS NOT DISTINCT FROM known
           AND coalesce(known, 0) IN (0, coalesce(stored.n, 0)) AS in_range,
       NOT labelled OR (coalesce(parts.right1, 0) = coalesce(stored.right1, 0)
           AND parts.right5 IS NOT DISTINCT FROM stored.right5) AS sums
FROM described LEFT JOIN parts ON parts.cell = described.id LEFT JOIN stored ON stored.cell = described.id
LEFT JOIN wanted ON wanted.n = parts.n
ORDER BY described.id
"""  # noqa: S608 - made of constants
RULES = {
    "whole": "is called complete and is not, or the other way round",
    "in_a_row": "has parts that overlap or leave a gap",
    "each_once": "lacks predictions that its parts count, or has some twice",
    "in_range": "has ranks without labels, labels without ranks, or confidences that are no probabilities",
    "sums": "has sums of right answers that are not those of its predictions",
}
LABELS = f"""
SELECT described.name, count(*) FILTER ((label_rank = 0) <> (predicted = class)) AS wrong
FROM prediction JOIN ({NAMED}) AS described ON described.id = prediction.cell
JOIN label ON label.image_set = described.image_set AND label.image_index = prediction.image_index
    AND own_scheme(label.scheme)
GROUP BY ALL ORDER BY name
"""  # noqa: S608 - made of constants
IMAGES = """
SELECT name, image_set.count = (SELECT count(*) FROM image WHERE image.image_set = image_set.id) AS same
FROM image_set ORDER BY name
"""


def check_database(store: Store) -> list[Check]:
    """Every check, whether it holds or not."""
    cells = store.frame(CELLS)
    checks = [
        Check(
            rule.replace("_", " "),
            len(cells),
            [f"{name} {words}" for name, held in cells.select("name", rule).rows() if not held],
        )
        for rule, words in RULES.items()
    ]
    labels = store.frame(LABELS).rows()
    wrong = [f"{name} has {count} ranks that do not fit prediction and label" for name, count in labels if count]
    images = store.frame(IMAGES).rows()
    lacking = [f"image set {name} has another number of images than it says" for name, same in images if not same]
    return [*checks, Check("labels", len(labels), wrong), Check("images", len(images), lacking)]
