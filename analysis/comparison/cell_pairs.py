"""Two runs, cell by cell and image by image.

Cells belong together that have the same checkpoint name, image set name, probe and parameters; `differs_in` says what
else differs. Images are matched by position where the sets are the same, and else by path. Without labels, right means
that the prediction agrees with the same run's clean one. `difference`, its interval and `p`, adjusted over all cells,
are those of `paired`. `detectable` is k s + 1 / n, with s from the interval (`power`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.errors import UnknownName, UsageError, quoted, some_of
from ...core.records import PREDICTION_COLUMNS
from ..database.store import Store
from ..database.study_versions import ORDER
from ..metrics.predictions import read_decisions
from ..statistics import ALPHA, Ints, Mask
from ..statistics.chance_agreement import MatchedAnswers
from ..statistics.coefficients import benjamini_hochberg, holm
from ..statistics.consistency import kappa_of
from ..statistics.paired import PairedDifference, paired, undetermined
from ..statistics.power import detected_widths
from ..statistics.proportions import AT_FLOOR

MATCH = ["checkpoint", "image_set", "probe", "parameters"]
"""Columns in which two cells that are compared agree."""
REASONS = {
    "model": "weights or export",
    "digest": "images or labels",
    "condition": "implementation of the probe",
    "engine": "engine",
    "precision": "precision",
    "decision_space": "decision space",
    "seed": "seed",
}
"""Column -> what it means where it differs."""
DIFFERS_IN = pl.concat_str(
    [pl.when(pl.col(name) != pl.col(f"{name}_b")).then(pl.lit(words)) for name, words in REASONS.items()],
    separator=", ",
    ignore_nulls=True,
).replace("", None)
"""The reasons for which two matched cells differ, in words; null where there is none."""
PRINTS = f"""
SELECT cell, sum(hash(image_index, {", ".join(PREDICTION_COLUMNS)})::HUGEINT)::VARCHAR AS print
FROM prediction WHERE cell IN (SELECT unnest($1::INTEGER[])) GROUP BY cell
"""  # noqa: S608 - made of constants
"""A number of each cell that is the same in two databases where all of its predictions are."""
DIFFERS = pl.col("p_holm") < ALPHA
"""True where two cells differ in accuracy."""
NOTE_AT_FLOOR = "both agree with their clean predictions no more than unrelated answers do"
CYCLES = pl.when(pl.col("cycles").eq_missing(pl.col("cycles_b"))).then("cycles").alias("cycles")
"""Cycles per image of two rows that are compared; null where their images differ in size."""
COLUMNS = (
    *(*MATCH, "cycles", "differs_in", "n", "changed", "top1_a", "top1_b", "difference", "low", "high"),
    *("lost", "gained", "p", "p_holm", "p_bh", "detectable", "kappa", "note"),
)
MOST_NAMES = 10
"""The number of checkpoints that a refusal lists."""
COUNTS, WORDS = ("n", "changed", "lost", "gained"), (*MATCH, "differs_in", "note")
CELLS = dict.fromkeys(COLUMNS, pl.Float64) | dict.fromkeys(COUNTS, pl.Int64) | dict.fromkeys(WORDS, pl.String)
"""Columns of cells that are compared."""


@dataclass(frozen=True, slots=True)
class Run:
    """A version of a study in an open database, or one of its checkpoints or image sets."""

    store: Store
    label: str
    column: str | None = None
    """The column of which a single value is compared, `checkpoint` or `image_set`; None for all cells."""
    value: str | None = None
    """The value of that column; or the precision of the version, where two precisions are compared."""
    alias: str | None = None
    """The name that the comparison gives it."""

    @property
    def name(self) -> str:
        """The short name of the run, or of its one checkpoint or image set."""
        return self.value or self.label

    @property
    def in_words(self) -> str:
        """The path of the database, the version, and the checkpoint, image set or precision where one is compared."""
        return ", ".join(filter(None, (str(self.store.path), self.label, self.value)))

    def name_beside(self, run: Run) -> str:
        """The name, with the path of the database where the other run lies in another one."""
        return self.name if self.store.path.samefile(run.store.path) else f"{self.name} of {self.store.path}"

    def is_same_as(self, run: Run) -> bool:
        """Whether both are the same part of the same version in one database."""
        keys = [(side.store.path.resolve(), side.label, side.column, side.value) for side in (self, run)]
        return keys[0] == keys[1]

    def select(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Select the rows that are compared, by checkpoint and image_set."""
        return rows if self.column is None else rows.filter(pl.col(self.column) == self.value)

    def renamed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Select the rows that are compared, and give them the comparison's names."""
        selection = self.select(rows)
        return selection if self.column is None else selection.with_columns(pl.lit(self.alias).alias(self.column))


def two_of(a: Run, b: Run, column: str, first: str, second: str) -> tuple[Run, Run]:
    """Reduce the runs to a checkpoint or an image set each, to be compared; UnknownName for one that is not there."""
    runs = []
    for run, name in ((a, first), (b, second)):
        detail = run.store.frame("SELECT DISTINCT checkpoint, image_set FROM study_detail_of(?)", [run.label])
        if name not in (names := detail[column].unique().sort()):
            raise UnknownName(f"{column.replace('_', ' ')} of {run.label}", name, names.to_list())
        runs.append(replace(run, column=column, value=name, alias=f"{first}, {second}"))
    return runs[0], runs[1]


@dataclass(frozen=True, slots=True)
class Compared:
    measure: str
    """The measure that cells are compared in: `accuracy`, `agreement` without labels, or `accuracy or agreement`."""
    cells: pl.DataFrame
    """The columns of CELLS, for each cell that both runs have and that is not one and the same."""
    same: int
    """Cells that are one and the same, by `match_cells`."""
    only_a: pl.DataFrame
    """The columns of MATCH and cycles, for cells that only A has."""
    only_b: pl.DataFrame
    """The columns of MATCH and cycles, for cells that only B has."""


def compare_cells(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Compared:
    """Compare every cell that both runs have. `advance` is called with the number of cells done.

    The numbers are those of `pair_cells`; p_holm and p_bh adjust p over all rows, and where p_holm < 0.05 the two cells
    differ; `detectable` is the smallest difference that 80 % of such comparisons find, null where not even one of 1 is
    found. Agreements that are both at their floor have a note, and no p. Raises UsageError where the two runs are one
    and the same.
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
        numbers, at_floor = paired_cells.rows, pl.Series(paired_cells.at_floor)
        if at_floor.any():  # without images in common there is no p
            note = pl.coalesce("note", pl.when(at_floor).then(pl.lit(NOTE_AT_FLOOR)))
            numbers = numbers.with_columns(p=pl.when(~at_floor).then("p"), note=note)
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
    """The cells that belong together, columns of B with the ending _b; `same` where they are one and the same.

    These have the same key and the same predictions: they are a row of one database, or stand in both.
    """
    pairs = cells_a.join(cells_b, on=MATCH, suffix="_b", maintain_order="left")
    if a.store.path.resolve() == b.store.path.resolve():
        return pairs.with_columns(same=pl.col("cell") == pl.col("cell_b"))
    equal, equality = pairs.filter(pl.col("key") == pl.col("key_b")), pl.col("key") == pl.col("key_b")
    # Without labels, what is right depends on the clean predictions, too.
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
    """The complete cells of a run under the comparison's names, with the columns that `pair_cells` takes."""
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


# One pair of cells, image by image


@dataclass(frozen=True, slots=True)
class PairedCells:
    """Pairs of cells on the images that both have."""

    rows: pl.DataFrame
    """The numbers of `pair_cells`, one row a pair."""
    changed: Mask
    """(pairs, n): images with another predicted class."""
    clusters: Ints
    """(n,): images with the same number are not independent."""
    difference: PairedDifference
    """The differences of the accuracies, (pairs,), whether they are comparable or not."""
    at_floor: Mask
    """(pairs,): whether neither agrees with its clean predictions beyond its floor (`statistics.floor`)."""


def pair_cells(a: Store, b: Store, pairs: pl.DataFrame) -> PairedCells:
    """Compare cells of `a` with cells of `b`, image by image, for `compare`, `gate` and the report.

    `changed` counts images with another predicted class, `lost` and `gained` those that are right in A only and in B
    only. difference is top1_b - top1_a with its 95 % interval, p McNemar's, kappa the error consistency of the two.
    Where accuracies cannot be compared, `note` says why, and all of them but n and changed are null.

    Args:
        pairs: cells of one checkpoint and image set on either side: the columns cell, clean_cell, image_set_id,
            labelled and itself of cell_detail, digest of the image set, and the same with the ending _b for `b`. Where
            the digests differ, also image_set (the name of the set), decision_space and decision_space_b.

    Raises UsageError where two sets give an image different labels.
    """
    images_a, images_b, clusters = common_images(a, b, pairs)
    rows = pairs.select(note=_why_not(len(clusters)), n=pl.lit(len(clusters), pl.Int64))
    if not len(clusters):
        return PairedCells(
            rows,
            np.zeros((len(pairs), 0), np.bool_),
            clusters,
            undetermined(len(pairs)),
            np.zeros(len(pairs), np.bool_),
        )
    predicted_a, right_a, floor_a = _outcomes(a, pairs, "", images_a, clusters)
    predicted_b, right_b, floor_b = _outcomes(b, pairs, "_b", images_b, clusters)
    compared, changes = paired(right_a, right_b, clusters), predicted_a != predicted_b
    numbers = {"top1_a": right_a.mean(axis=1), "top1_b": right_b.mean(axis=1)}
    numbers |= {name: getattr(compared, name) for name in ("difference", "low", "high", "lost", "gained", "p")}
    agreement = 1 - (compared.lost + compared.gained) / len(clusters)
    numbers["kappa"] = kappa_of(agreement, numbers["top1_a"], numbers["top1_b"])
    when_comparable = pl.when(pl.col("note").is_null())
    rows = rows.with_columns(
        changed=pl.Series(changes.sum(axis=1), dtype=pl.Int64),
        **{name: when_comparable.then(pl.Series(values, nan_to_null=True)) for name, values in numbers.items()},
    )
    return PairedCells(rows, changes, clusters, compared.paired_difference, floor_a & floor_b)


def _why_not(n: int) -> pl.Expr:
    """The reason why accuracies cannot be compared, or null."""
    return (
        pl.when(pl.lit(n == 0))
        .then(pl.lit("no image in common"))
        .when(pl.col("labelled") != pl.col("labelled_b"))
        .then(pl.lit("only one of the runs has labels"))
        .when("itself")
        .then(pl.lit("agrees with itself by definition"))
        .when(~pl.col("labelled") & (pl.col("clean_cell").is_null() | pl.col("clean_cell_b").is_null()))
        .then(pl.lit("no clean prediction to agree with"))
    )


def common_images(a: Store, b: Store, cells: pl.DataFrame) -> tuple[Ints, Ints, Ints]:
    """(image_index in A, image_index in B, cluster in A) of the images that both sets have, by path.

    UsageError where two sets give one of them different labels, or further right classes: being right would mean two
    things.
    """
    query = (
        "SELECT path, image_index, cluster, label FROM image LEFT JOIN (SELECT image_set, image_index, "
        "array_to_string(list_sort(list(DISTINCT class)), ';') AS label FROM label WHERE own_scheme(scheme) "
        "OR scheme = 'several' GROUP BY ALL) USING (image_set, image_index) WHERE image_set = ? ORDER BY image_index"
    )
    first = cells.row(0, named=True)
    images_a = a.frame(query, [first["image_set_id"]])
    if first["digest"] == first["digest_b"]:
        images = images_a.with_columns(image_index_b="image_index")
    else:
        images_b = b.frame(query, [first["image_set_id_b"]])
        unique = [side.filter(pl.col("path").is_unique()) for side in (images_a, images_b)]
        images = unique[0].join(unique[1], on="path", suffix="_b", maintain_order="left")
        # A number is another class in another decision space: there `differs_in` says what is compared.
        conflicts = images.filter(pl.col("label") != pl.col("label_b"))
        if len(conflicts) and first["decision_space"] == first["decision_space_b"]:
            path, label, label_b = conflicts.select("path", "label", "label_b").row(0)
            raise UsageError(
                f"image set {first['image_set']}: {path} has label {label} in A and {label_b} in B, the first "
                f"of {len(conflicts)} of {len(images)} images in common whose labels differ; pack both with the same "
                "labels"
            )
    index_a, index_b, cluster = (images[name].to_numpy() for name in ("image_index", "image_index_b", "cluster"))
    return index_a.astype(np.int64), index_b.astype(np.int64), cluster.astype(np.int64)


def _outcomes(
    store: Store, cells: pl.DataFrame, suffix: str, images: Ints, clusters: Ints
) -> tuple[NDArray[np.uint16], Mask, Mask]:
    """(predicted, right), each (cells, images): against the label, or else the clean prediction if there is one.

    The third is (cells,): whether the agreement with that prediction is at its floor.
    """
    perturbed_cells, clean_cells = cells[f"cell{suffix}"], cells[f"clean_cell{suffix}"]
    ids = pl.concat([perturbed_cells, clean_cells]).drop_nulls().unique().sort()
    decisions = read_decisions(store, ids.to_list())
    classes = np.stack([outcome.predicted for outcome in decisions])[:, images]
    place = ids.search_sorted(perturbed_cells).to_numpy()
    predicted = classes[place]
    if cells[f"labelled{suffix}"][0]:
        correct = np.stack([outcome.rank == 0 for outcome in decisions])[:, images]
        return predicted, correct[place], np.zeros(len(place), np.bool_)
    clean = classes[ids.search_sorted(clean_cells.fill_null(ids[0])).to_numpy()]
    ids_of_clusters, answers = np.unique(clusters, return_inverse=True)[1], predicted.astype(np.int64)
    p = [
        MatchedAnswers((row == reference)[None], row[None], reference, 0.0, ids_of_clusters).p
        for row, reference in zip(answers, clean.astype(np.int64), strict=True)
    ]
    return predicted, predicted == clean, np.array(p) > AT_FLOOR
