"""Compare two runs cell by cell and image by image.

Two cells are compared if they have the same checkpoint name, image set name, probe and parameters. `differs_in` lists
what else differs between them. Images are matched by position if the image sets are identical, and by path otherwise.
Without labels, a prediction is correct if it equals the clean prediction of the same run.

`difference`, its interval and `p` are described in `paired`. `p_holm` and `p_bh` are the p-values after correction over
all cells, by Holm and by Benjamini and Hochberg. `detectable` is the minimum detectable difference k s + 1 / n, where n
is the number of images and the standard error s is computed from the interval. `power` defines k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from ...core.errors import UnknownName, UsageError, quoted, some_of
from ...core.records import PREDICTION_COLUMNS
from ..database.store import Store
from ..database.study_versions import ORDER
from ..metrics.predictions import PredictionReader
from ..statistics import ALPHA
from ..statistics.coefficients import benjamini_hochberg, holm
from ..statistics.consistency import kappa_of
from ..statistics.paired import PairedDifference, paired, undetermined
from ..statistics.power import detected_widths
from .paired_outcomes import PairedOutcomes, read_paired_outcomes

MATCH = ["checkpoint", "image_set", "probe", "parameters"]
"""Columns that must be equal in two cells that are compared."""
REASONS = {
    "model": "weights or export",
    "digest": "images or labels",
    "condition": "implementation of the probe",
    "engine": "engine",
    "precision": "precision",
    "decision_space": "decision space",
    "seed": "seed",
}
"""Column -> description of what differs if its values differ."""
DIFFERS_IN = pl.concat_str(
    [pl.when(pl.col(name) != pl.col(f"{name}_b")).then(pl.lit(words)) for name, words in REASONS.items()],
    separator=", ",
    ignore_nulls=True,
).replace("", None)
"""Descriptions of what differs between two matched cells, or null if nothing does."""
PRINTS = f"""
SELECT cell, sum(hash(image_index, {", ".join(PREDICTION_COLUMNS)})::HUGEINT)::VARCHAR AS print
FROM prediction WHERE cell IN (SELECT unnest($1::INTEGER[])) GROUP BY cell
"""  # noqa: S608 - made of constants
"""Hash of the predictions of each cell. Cells in two databases with the same predictions have the same hash."""
DIFFERS = pl.col("p_holm") < ALPHA
"""True if two cells differ significantly in accuracy."""
NOTE_AT_FLOOR = "both agree with their clean predictions no more than unrelated answers do"
CYCLES = pl.when(pl.col("cycles").eq_missing(pl.col("cycles_b"))).then("cycles").alias("cycles")
"""Frequency of two compared rows in cycles/image. Null if their images differ in size."""
COLUMNS = (
    *(*MATCH, "cycles", "differs_in", "n", "changed", "top1_a", "top1_b", "difference", "low", "high"),
    *("lost", "gained", "p", "p_holm", "p_bh", "detectable", "kappa", "note"),
)
MOST_NAMES = 10
"""Maximum number of checkpoints that an error message lists."""
COUNTS, WORDS = ("n", "changed", "lost", "gained"), (*MATCH, "differs_in", "note")
CELLS = dict.fromkeys(COLUMNS, pl.Float64) | dict.fromkeys(COUNTS, pl.Int64) | dict.fromkeys(WORDS, pl.String)
"""Columns of compared cells."""


@dataclass(frozen=True, slots=True)
class Run:
    """A version of a study in an open database, optionally reduced to one checkpoint or one image set."""

    store: Store
    label: str
    column: str | None = None
    """Column that is reduced to a single value, `checkpoint` or `image_set`. None for all cells."""
    value: str | None = None
    """Value of that column. If two precisions are compared, the precision of the version."""
    alias: str | None = None
    """Common name in the comparison for the values of `column` in both runs."""

    @property
    def name(self) -> str:
        """Short name of the run, or of its one checkpoint or image set."""
        return self.value or self.label

    @property
    def in_words(self) -> str:
        """Path of the database, version, and the checkpoint, image set or precision if one is compared."""
        return ", ".join(filter(None, (str(self.store.path), self.label, self.value)))

    def name_beside(self, run: Run) -> str:
        """Return the name, followed by the path of the database if the other run is in a different one."""
        return self.name if self.store.path.samefile(run.store.path) else f"{self.name} of {self.store.path}"

    def is_same_as(self, run: Run) -> bool:
        """Return whether both are the same part of the same version in the same database."""
        keys = [(side.store.path.resolve(), side.label, side.column, side.value) for side in (self, run)]
        return keys[0] == keys[1]

    def select(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Select the rows of the checkpoint or image set that is compared."""
        return rows if self.column is None else rows.filter(pl.col(self.column) == self.value)

    def renamed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Select the rows that are compared, and rename their checkpoint or image set for the comparison."""
        selection = self.select(rows)
        return selection if self.column is None else selection.with_columns(pl.lit(self.alias).alias(self.column))


def two_of(a: Run, b: Run, column: str, first: str, second: str) -> tuple[Run, Run]:
    """Reduce each run to one checkpoint or image set. Raises UnknownName if a run does not have it."""
    runs = []
    for run, name in ((a, first), (b, second)):
        detail = run.store.frame("SELECT DISTINCT checkpoint, image_set FROM study_detail_of(?)", [run.label])
        if name not in (names := detail[column].unique().sort()):
            raise UnknownName(f"{column.replace('_', ' ')} of {run.label}", name, names.to_list())
        runs.append(replace(run, column=column, value=name, alias=f"{first}, {second}"))
    return runs[0], runs[1]


@dataclass(frozen=True, slots=True)
class Compared:
    """Cells of two runs, compared one by one."""

    measure: str
    """Metric that is compared: `accuracy`, `agreement` without labels, or `accuracy or agreement`."""
    cells: pl.DataFrame
    """Columns of CELLS, for each cell that both runs have, except identical ones."""
    same: int
    """Number of identical cells, as determined by `match_cells`."""
    only_a: pl.DataFrame
    """Columns of MATCH and cycles, for cells that only A has."""
    only_b: pl.DataFrame
    """Columns of MATCH and cycles, for cells that only B has."""


def compare_cells(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Compared:
    """Compare every cell that both runs have.

    The columns of `pair_cells` are extended by p_holm and p_bh, which correct p over all rows, and by `detectable`, the
    smallest difference that such a comparison detects with 80% power. `detectable` is null if it would exceed 1. Two
    cells differ significantly if p_holm < 0.05. If the agreement of both cells is at chance, they have a note and no p.

    Args:
        a: First run.
        b: Second run.
        advance: Called with the number of completed cells.

    Raises:
        UsageError: If both runs are the same.
    """
    cells_a, cells_b = read_cells(a), read_cells(b)
    if a.is_same_as(b):
        pairs_to_name, checkpoints = ["--image-sets X,Y", "--precisions X,Y"], cells_a["checkpoint"].unique().sort()
        if len(checkpoints) > 1:
            example = quoted(",".join(checkpoints[:2]))
            pairs_to_name.insert(0, f"--checkpoints {example} (it has {some_of(checkpoints, MOST_NAMES)})")
        raise UsageError(
            f"{a.name} would be compared with itself; name another study or version, or two of its own: "
            f"{', '.join(pairs_to_name)}"
        )
    pairs = match_cells(a, b, cells_a, cells_b)
    rows = [pl.DataFrame(schema=CELLS)]
    for _, group in pairs.filter(~pl.col("same")).group_by("checkpoint", "image_set", maintain_order=True):
        words = group.select(*MATCH, CYCLES, differs_in=DIFFERS_IN)
        paired_cells = pair_cells(a.store, b.store, group)
        numbers, at_chance = paired_cells.rows, pl.Series(paired_cells.outcomes.at_chance)
        if at_chance.any():  # False without common images, where the column p does not exist
            note = pl.coalesce("note", pl.when(at_chance).then(pl.lit(NOTE_AT_FLOOR)))
            numbers = numbers.with_columns(p=pl.when(~at_chance).then("p"), note=note)
        rows.append(pl.concat([words, numbers], how="horizontal"))
        advance(len(group))
    cells = pl.concat(rows, how="diagonal")
    p = cells["p"].fill_null(np.nan).to_numpy()
    width = detected_widths(max(1, int((~np.isnan(p)).sum())))
    cells = cells.with_columns(
        p_holm=pl.Series(holm(p)),
        p_bh=pl.Series(benjamini_hochberg(p)),
        detectable=width * (pl.col("high") - pl.col("low")) + 1 / pl.col("n"),
    ).with_columns(pl.when(pl.col("detectable") <= 1).then("detectable"))
    measures = {"accuracy" if labelled else "agreement" for labelled in pairs["labelled"]}
    return Compared(
        " or ".join(sorted(measures)) or "accuracy",
        cells.with_columns(pl.col(pl.Float64).fill_nan(None)),
        int(pairs["same"].sum()),
        cells_a.join(cells_b, on=MATCH, how="anti", maintain_order="left").select(*MATCH, "cycles"),
        cells_b.join(cells_a, on=MATCH, how="anti", maintain_order="left").select(*MATCH, "cycles"),
    )


def match_cells(a: Run, b: Run, cells_a: pl.DataFrame, cells_b: pl.DataFrame) -> pl.DataFrame:
    """Join the cells that are compared. Columns of B have the suffix _b, and `same` marks identical cells.

    Cells are identical if they are the same row of one database, or if they have the same key and the same predictions
    in two databases.
    """
    pairs = cells_a.join(cells_b, on=MATCH, suffix="_b", maintain_order="left")
    if a.store.path.resolve() == b.store.path.resolve():
        return pairs.with_columns(same=pl.col("cell") == pl.col("cell_b"))
    equal, equality = pairs.filter(pl.col("key") == pl.col("key_b")), pl.col("key") == pl.col("key_b")
    # Without labels, correctness also depends on the clean predictions.
    for column in ("cell", "clean_cell"):
        prints_a, prints_b = (
            dict(run.store.frame(PRINTS, [equal[name].drop_nulls().unique().to_list()]).rows())
            for run, name in ((a, column), (b, f"{column}_b"))
        )
        print_a = pl.col(column).replace_strict(prints_a, default=None, return_dtype=pl.String)
        print_b = pl.col(f"{column}_b").replace_strict(prints_b, default=None, return_dtype=pl.String)
        equality &= print_a.eq_missing(print_b)
    return pairs.with_columns(same=equality)


def read_cells(run: Run) -> pl.DataFrame:
    """Read the complete cells of a run with their names in the comparison and the columns that `pair_cells` needs."""
    cells = run.store.frame(
        "SELECT cell.id AS cell, cell.key, "  # noqa: S608 - made of constants
        "detail.checkpoint, detail.image_set, detail.image_set_id, detail.probe, "
        "detail.parameters::VARCHAR AS parameters, detail.cycles, detail.labelled, detail.itself, detail.clean_cell, "
        "model_sha256 AS model, image_set.digest, image_set.count::BIGINT AS n, condition.digest AS condition, "
        "cell.engine, cell.precision, "
        "cell.decision_space, cell.seed "
        "FROM study_detail_of(?) AS detail JOIN cell ON cell.id = detail.cell "
        "JOIN checkpoint ON checkpoint.id = checkpoint_id JOIN image_set ON image_set.id = image_set_id "
        "JOIN (SELECT id, digest FROM condition) AS condition ON condition.id = cell.condition "
        f"ORDER BY detail.checkpoint, detail.image_set, {ORDER}",
        [run.label],
    )
    cells = run.renamed(cells)
    duplicates = cells.filter(cells.select(MATCH).is_duplicated())
    if len(duplicates):
        words = ", ".join(duplicates.select(MATCH).row(0))
        raise UsageError(f"{run.store.path}, {run.label}: {words} is there twice; give each image set its own name")
    return cells


# Comparison of two cells, image by image


@dataclass(frozen=True, slots=True)
class PairedCells:
    """Statistics of pairs of cells on the images that both have."""

    rows: pl.DataFrame
    """Columns of `pair_cells`, one row per pair."""
    outcomes: PairedOutcomes
    """Outcomes that the statistics are computed from."""
    difference: PairedDifference
    """Differences in accuracy, (pairs,), whether or not they can be compared."""


def pair_cells(a: Store, b: Store, pairs: pl.DataFrame) -> PairedCells:
    """Compare cells of `a` with cells of `b`, image by image, for `compare`, `gate` and the report.

    `changed` is the number of images whose predicted class differs. `lost` and `gained` are the numbers of images that
    are correct only in A and only in B. `difference` is top1_b - top1_a with its 95% confidence interval, `p` is from
    McNemar's test, and `kappa` is the error consistency of the two cells. If their accuracies cannot be compared,
    `note` states why, and all columns except n and changed are null.

    Args:
        a: Database of A.
        b: Database of B.
        pairs: Pairs of cells as for `read_paired_outcomes`.

    Raises:
        UsageError: If an image has different labels in the two image sets.
    """
    reader_a = PredictionReader(a)
    outcomes = read_paired_outcomes(reader_a, reader_a if a is b else PredictionReader(b), pairs)
    n = len(outcomes.clusters)
    rows = pairs.select(note=outcomes.reason, n=pl.lit(n, pl.Int64))
    if not n:
        return PairedCells(rows, outcomes, undetermined(len(pairs)))
    right_a, right_b = outcomes.correct_a, outcomes.correct_b
    compared = paired(right_a, right_b, outcomes.clusters)
    numbers = {"top1_a": right_a.mean(axis=1), "top1_b": right_b.mean(axis=1)}
    numbers |= {name: getattr(compared, name) for name in ("difference", "low", "high", "lost", "gained", "p")}
    agreement = 1 - (compared.lost + compared.gained) / n
    numbers["kappa"] = kappa_of(agreement, numbers["top1_a"], numbers["top1_b"])
    when_comparable = pl.when(pl.col("note").is_null())
    rows = rows.with_columns(
        changed=pl.Series(outcomes.changed.sum(axis=1), dtype=pl.Int64),
        **{name: when_comparable.then(pl.Series(values, nan_to_null=True)) for name, values in numbers.items()},
    )
    return PairedCells(rows, outcomes, compared.paired_difference)
