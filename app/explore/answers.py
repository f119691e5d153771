"""Queries of the explorer page: a study, its accuracies, a correlation over selected models, and selected images.

Results are plain data for JSON. The accuracies of a study are read once and cached. Predictions are read only for the
cells of a query.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ...analysis.charts.grammar import colors, series_of
from ...analysis.comparison.cell_pairs import pair_cells
from ...analysis.comparison.verdict import difference_in_words, verdict
from ...analysis.correlations.table import correlate
from ...analysis.correlations.table_inputs import StudyTable, find_study_table
from ...analysis.database.open import open_store
from ...analysis.database.store import Store
from ...analysis.database.study_versions import frequency_settings, last_run, read_conditions, study_label
from ...analysis.metrics.base import State
from ...analysis.metrics.families.octaves import SHARES
from ...analysis.metrics.predictions import read_slices, with_floors
from ...core.errors import UsageError
from ...core.records import Missing
from ...probes.images.image_set import ImageSet
from ..study.set_lookup import Conditions, as_recorded, clean, png

RESAMPLES = 2000
"""Resamples for the interval of a correlation. They are few because every selection of models needs new ones."""
PAGE_TILES = 120
"""Maximum number of images in one response."""
MEMORY_LIMIT = "256MB"
"""Memory limit of DuckDB. The page reads few cells at a time, but its views need at least 50 to 70 MB."""

SELECTIONS = {
    "flips": "a.predicted <> a_clean.predicted",
    "flips_only_a": "a.predicted <> a_clean.predicted AND b.predicted = b_clean.predicted",
    "errors": "a.label_rank > 0",
    "all": "true",
}
"""Name of a selection -> condition on the predictions of model a, and of model b if there is one."""
ORDERS = {"flips": "a_clean.confidence DESC", "flips_only_a": "a_clean.confidence DESC", "errors": "a.confidence DESC"}

IMAGES_OF_QUERY = """
SELECT a.image_index
FROM prediction AS a
LEFT JOIN prediction AS a_clean ON a_clean.cell = $2 AND a_clean.image_index = a.image_index
LEFT JOIN prediction AS b ON b.cell = $3 AND b.image_index = a.image_index
LEFT JOIN prediction AS b_clean ON b_clean.cell = $4 AND b_clean.image_index = a.image_index
WHERE a.cell = $1 AND {where} AND ($6::INTEGER IS NULL OR a.image_index IN (
    SELECT image_index FROM label
    WHERE image_set = $5 AND class = $6 AND CASE WHEN $7 IS NULL THEN own_scheme(scheme) ELSE scheme = $7 END
)) AND ($8 IS NULL OR a.image_index IN (
    SELECT image_index FROM image_attribute WHERE image_set = $5 AND name = $8 AND value = $9
))
ORDER BY {order}, a.image_index
"""
ANSWERS = """
SELECT cell, image_index, predicted, label_rank, confidence
FROM prediction WHERE cell IN ({cells}) AND image_index IN ({which})
"""
IMAGES_OF_PAGE = """
SELECT image.image_index, image.path, truth.class AS label
FROM image
LEFT JOIN label AS truth
  ON truth.image_set = image.image_set AND truth.image_index = image.image_index AND own_scheme(truth.scheme)
WHERE image.image_set = $1 AND image.image_index IN ({which})
"""


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """Query for images of an image set under one condition, selected by the predictions of models."""

    study: str
    image_set: str
    condition: str
    """Digest of the condition."""
    a: str
    """Model whose predictions select the images."""
    b: str | None
    """Second model, which `flips_only_a` requires."""
    selection: str
    """Name in SELECTIONS."""
    label: int | None
    """Label that the images must have. None for any."""
    models: Sequence[str]
    """Models whose predictions are returned."""
    offset: int = 0
    limit: int = 24
    scheme: str | None = None
    """label.scheme of `label`. None for the main labels, whose rank is stored with the predictions."""
    attribute: str | None = None
    """Name of an attribute that the images must have. None for any image."""
    attribute_value: str | None = None
    """Value that this attribute must have."""


@dataclass(slots=True)
class StudyTables:
    """Tables of one study, cached after the first read."""

    cells: pl.DataFrame
    """One row per complete cell, with its accuracy and the digest of its condition."""
    conditions: pl.DataFrame
    """Conditions of the study in display order, as returned by `read_conditions`."""
    table: StudyTable | Missing
    """Biases and accuracies of each model, or the reason why there are none to correlate."""
    verdict: list[str]
    """Sentences of the verdict. See `comparison.verdict`."""


class Answers:
    """Queries of one database, which is reopened when a run has changed it. Methods are thread-safe."""

    def __init__(self, database: Path, sets: dict[str, ImageSet], conditions: Conditions) -> None:
        self._path, self._conditions = database, conditions
        self._packed = list(sets.values())
        self._sets: dict[str, ImageSet | None] = dict(sets)
        self._lock, self._stack = threading.Lock(), ExitStack()
        self._store: Store | None = None
        self._stamp: tuple[int, ...] = ()
        self._tables: dict[str, StudyTables] = {}

    def close(self) -> None:
        with self._lock:
            self._stack.close()
            self._store = None

    @contextmanager
    def _database(self) -> Iterator[Store]:
        """Provide the current version of the database to one thread at a time."""
        with self._lock:
            # A run replaces or rewrites the file while the page is open. Inode, modification time and size show this.
            stat = self._path.stat() if self._path.exists() else None
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size) if stat else ()
            if self._store is None or self._stamp != stamp:
                self._stack.close()
                # Clear the cached tables and the store first, in case that opening the database fails.
                self._store, self._stamp, self._tables = None, stamp, {}
                self._store = self._stack.enter_context(open_store(self._path, read_only=True))
                self._store.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            yield self._store

    def study(self, name: str | None) -> dict[str, Any]:
        """Return models, image sets, conditions and accuracies of a study, by default the one that was run last."""
        with self._database() as store:
            label = study_label(store, name or last_run(store))
            tables = self._read_tables(store, label)
            query = (
                "SELECT label FROM version_of('*') JOIN study ON study.id = study_id ORDER BY last_run DESC, id DESC"
            )
            labels = store.frame(query)["label"].to_list()
            cells = tables.cells
            picture_digests = {digest for digest in cells["digest"].unique() if self._images(store, digest)}
        # Conditions are labeled with their frequencies if these are the same on all image sets.
        varies = pl.col("cycles").n_unique() > 1
        cycles = cells.group_by(digest="condition").agg(cycles=pl.when(~varies).then(pl.col("cycles").first()))
        conditions = tables.conditions.join(cycles, on="digest", maintain_order="left")
        # Use the same order, colors and shapes as the curves of the report.
        models = cells.select("checkpoint", "category").unique().sort("checkpoint")
        field = "checkpoint" if series_of(models) == "model" else "category"
        palette = colors(models[field])
        return {
            "study": label,
            "studies": labels if label in labels else [label, *labels],
            "models": [
                {"name": row["checkpoint"], "category": row["category"]}
                | dict(zip(("color", "shape"), palette[row[field]], strict=True))
                for row in models.to_dicts()
            ],
            "image_sets": [
                {"name": row["image_set"], "labelled": row["labelled"], "n": row["n"],
                 "own_cycles": row["own_cycles"], "pictures": row["digest"] in picture_digests}
                for row in cells.unique("image_set", maintain_order=True).to_dicts()
            ],
            "conditions": [
                self._condition(row)
                for row in conditions.with_columns(setting_in_cycles=frequency_settings()).to_dicts()
            ],
            "accuracy": cells.select(
                "checkpoint", "image_set", "condition", "top1", "low", "high", "chance", "n", "cycles"
            ).to_dict(as_series=False),
            "metrics": _metrics(tables.table),
            "verdict": tables.verdict,
        }  # fmt: skip

    def _condition(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a condition with its label, its position in charts, and the reason if it has no images."""
        names = ("probe", "place", "series", "x", "x_title", "y", "y_title", "cuts")
        return {
            "id": row["digest"],
            "words": f"{row['probe']} {row['setting']}".rstrip(),
            "setting": row["setting_in_cycles"],
            **{name: row[name] for name in names},
            "unseen": self._conditions.why_not(row["probe"], row["parameters"], row["digest"]),
        }

    def correlation(self, study: str, bias: str, group: str, models: Sequence[str]) -> dict[str, Any]:
        """Compute Spearman's correlation of a bias with an accuracy, with its 95% confidence interval over models."""
        with self._database() as store:
            table = self._read_tables(store, study_label(store, study)).table
        if isinstance(table, Missing):
            raise UsageError(table.reason)
        if bias not in table.biases or group not in table.groups:
            raise UsageError(f"{study} has no {bias if bias not in table.biases else group}; choose another")
        frame = table.frame.filter(pl.col("checkpoint").is_in(list(models)))
        coefficients = correlate(
            frame, [bias], [group], {"chosen": pl.lit(True)}, control=table.control, resamples=RESAMPLES
        )
        return coefficients.row(0, named=True)

    def images(self, query: ImageQuery) -> dict[str, Any]:
        """Return the images of a query with the predictions of its models, and the difference in accuracy B - A."""
        if query.selection not in SELECTIONS or (query.selection == "flips_only_a" and not query.b):
            raise UsageError(f"selection is one of {', '.join(SELECTIONS)}; flips_only_a needs two models")
        with self._database() as store:
            cells = self._read_tables(store, study_label(store, query.study)).cells
            cells = cells.filter(image_set=query.image_set, condition=query.condition)
            cell_a, cell_b = _cell_of(cells, query.a), _cell_of(cells, query.b) if query.b else {}
            fitting = store.frame(
                IMAGES_OF_QUERY.format(
                    where=SELECTIONS[query.selection],
                    order=ORDERS.get(query.selection, "a.image_index"),
                ),
                [
                    *(cell_a["cell"], cell_a["clean_cell"], cell_b.get("cell"), cell_b.get("clean_cell")),
                    *(cell_a["image_set_id"], query.label, query.scheme),
                    *(query.attribute, query.attribute_value),
                ],
            )
            page = fitting.slice(query.offset, min(query.limit, PAGE_TILES))
            numbers = _sql_list(page["image_index"])
            images = page.join(
                store.frame(IMAGES_OF_PAGE.format(which=numbers), [cell_a["image_set_id"]]),
                on="image_index",
                maintain_order="left",
            )
            class_names = {
                (classes, number): name
                for classes, number, name in store.frame(
                    "SELECT classes, class, name FROM shown_class WHERE image_set = ?", [cell_a["image_set_id"]]
                ).rows()
            }
            difference = None
            if cell_b:
                pair = pl.DataFrame([cell_a | {f"{column}_b": value for column, value in cell_b.items()}])
                row = pair_cells(store, store, pair).rows.row(0, named=True)
                difference = row["note"] or f"{difference_in_words(row)} on {row['n']:,} images"
            answers = _answers_of(store, cells.filter(pl.col("checkpoint").is_in(list(query.models))), numbers)

        def name(classes: int, number: int | None) -> str | None:
            """Return the name of a class of a model with this number of classes."""
            return None if number is None else class_names.get((classes, number), f"class {number}")

        tiles = [
            {
                "index": row["image_index"],
                "path": row["path"],
                "label": name(cell_a["classes"], row["label"]),
                "answers": [
                    {
                        "model": answer["checkpoint"],
                        "clean": name(answer["classes"], answer["clean"]),
                        "clean_confidence": answer["clean_confidence"],
                        "clean_right": _is_right(row["label"], answer["clean"], answer["clean_rank"]),
                        "answer": name(answer["classes"], answer["predicted"]),
                        "confidence": answer["confidence"],
                        "right": _is_right(row["label"], answer["predicted"], answer["label_rank"]),
                    }
                    for answer in answers.get(row["image_index"], [])
                ],
            }
            for row in images.to_dicts()
        ]
        about = {"digest": cell_a["digest"], "seed": cell_a["seed"], "difference": difference}
        return about | {"total": len(fitting), "tiles": tiles}

    def filters(self, study: str, image_set: str) -> dict[str, list[dict[str, Any]]]:
        """Return the choices for selecting images: classes, and attributes with their values.

        Classes are listed by label scheme. The main labels, whose rank is stored with the predictions, come first.
        """
        with self._database() as store:
            cells = self._read_tables(store, study_label(store, study)).cells.filter(image_set=image_set)
            if cells.is_empty():
                raise UsageError(f"{study} has no image set {image_set}; choose another")
            query = (
                "SELECT DISTINCT NOT own_scheme(scheme) AS further, scheme, label.class AS class, "
                "coalesce(shown_class.name, label.class::VARCHAR) AS name "
                "FROM label LEFT JOIN shown_class ON shown_class.image_set = label.image_set "
                "AND shown_class.class = label.class AND list_contains($2, shown_class.classes) "
                "WHERE label.image_set = $1 ORDER BY ALL"
            )
            rows = store.frame(query, [cells["image_set_id"][0], cells["classes"].unique().to_list()])
            slices = read_slices(store, cells["image_set_id"][0])
        attributes = [{"name": name, "value": value} for name, value in slices]
        return {"classes": rows.drop("further").to_dicts(), "attributes": attributes}

    def octaves(self, study: str, image_set: str, index: int) -> dict[str, list[float]]:
        """Return the Shapley values of the seven octaves for an image, by model, for models with all sets of octaves.

        Models at chance are omitted, as in the report, because their values are not meaningful.
        """
        query = (
            "SELECT checkpoint, list(share ORDER BY octave) AS shares FROM octave_share_of($1) "
            "ANTI JOIN (FROM metric_of($1) WHERE list_contains($4, metric) AND state = $5) AS guess "
            "USING (checkpoint, image_set) WHERE image_set = $2 AND image_index = $3 "
            "GROUP BY checkpoint ORDER BY checkpoint"
        )
        with self._database() as store:
            label = study_label(store, study)
            return dict(store.frame(query, [label, image_set, index, SHARES, State.AT_CHANCE]).rows())

    def picture(self, digest: str, index: int, condition: str | None, seed: int) -> bytes:
        """Return an image of a packed image set as PNG, under a condition of the database if `condition` is given."""
        query = "SELECT probe, parameters, digest FROM condition WHERE digest = ?"
        with self._database() as store:
            images, conditions = self._images(store, digest), store.frame(query, [condition]).rows()
        if images is None or not 0 <= index < images.info.count:
            raise UsageError("no such image in the sets that were found")
        if condition is None:
            return png(clean(images, index))
        if not conditions:
            raise UsageError("no such condition in the database")
        return png(self._conditions.apply(images, index, self._conditions.find(*conditions[0]), seed))

    def _images(self, store: Store, digest: str) -> ImageSet | None:
        """Find the images of an image set of the database. They can be a selection from one of the packed sets."""
        if digest not in self._sets:
            selections = (as_recorded(store, images, digest) for images in self._packed)
            self._sets[digest] = next((images for images in selections if images), None)
        return self._sets[digest]

    def _read_tables(self, store: Store, label: str) -> StudyTables:
        if label not in self._tables:
            cells = store.frame(
                "SELECT detail.cell, detail.checkpoint, checkpoint.classes, detail.category, detail.image_set, "
                "detail.image_set_id, detail.labelled, detail.itself, detail.clean_cell, detail.decision_space, "
                "detail.seed, detail.cycles, condition.digest AS condition, "
                "image_set.digest, image_set.own_cycles, result.n, result.top1, result.low, result.high, "
                "CASE WHEN detail.labelled THEN right_classes(detail.image_set_id) "
                "/ classes_decided(detail.decision_space, checkpoint.classes) END AS chance "
                "FROM study_detail_of(?) AS detail JOIN cell_accuracy AS result ON result.cell = detail.cell "
                "JOIN cell ON cell.id = detail.cell JOIN condition ON condition.id = cell.condition "
                "JOIN image_set ON image_set.id = detail.image_set_id "
                "JOIN checkpoint ON checkpoint.id = detail.checkpoint_id "
                "ORDER BY detail.image_set, detail.checkpoint, condition.id",
                [label],
            )
            cells = with_floors(store, label, cells)
            table = find_study_table(store, label, with_errors=False)
            sentences = verdict(store, label).sentences
            conditions = read_conditions(store, label)
            self._tables[label] = StudyTables(cells, conditions, table, sentences)
        return self._tables[label]


def _sql_list(numbers: Iterable[int]) -> str:
    """Format numbers for `IN (…)`, or -1 if there are none. DuckDB can skip data only if the list is literal SQL."""
    return ", ".join(map(str, map(int, numbers))) or "-1"


def _cell_of(cells: pl.DataFrame, model: str) -> dict[str, Any]:
    """Return the row of a model among the cells of an image set and condition."""
    rows = cells.filter(checkpoint=model)
    if rows.is_empty():
        raise UsageError(f"{model} has no results for these images under this condition; choose others")
    return rows.row(0, named=True)


def _answers_of(store: Store, cells: pl.DataFrame, numbers: str) -> dict[int, list[dict[str, Any]]]:
    """Return the predictions of each model by image, both perturbed and clean."""
    ids = _sql_list([*cells["cell"], *cells["clean_cell"].drop_nulls()])
    predictions = store.frame(ANSWERS.format(cells=ids, which=numbers))
    reference = predictions.select(
        "image_index", clean_cell="cell", clean="predicted", clean_rank="label_rank", clean_confidence="confidence"
    )
    answers = (
        predictions.join(cells.select("cell", "clean_cell", "checkpoint", "classes"), on="cell", maintain_order="left")
        .join(reference, on=["clean_cell", "image_index"], how="left", maintain_order="left")
        .sort("image_index", "checkpoint")
    )
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in answers.to_dicts():
        by_image.setdefault(row["image_index"], []).append(row)
    return by_image


def _is_right(label: int | None, predicted: int | None, label_rank: int | None) -> bool | None:
    """Return whether a prediction is the label, or None if either is missing."""
    return None if label is None or predicted is None else label_rank == 0


def _metrics(table: StudyTable | Missing) -> dict[str, Any]:
    """Return the values of the scatter plot, with the metrics that most models have first, or why there are none."""
    if isinstance(table, Missing):
        return {"why": table.reason, "biases": [], "groups": [], "titles": {}, "rows": []}
    columns = [f"{name}{end}" for name in (*table.biases, *table.groups) for end in ("", "_low", "_high")]
    rows = table.frame.select("checkpoint", *(column for column in columns if column in table.frame.columns))
    biases, groups = (sorted(names, key=lambda name: rows[name].null_count()) for names in (table.biases, table.groups))
    titles = {name: table.title(name) for name in (*biases, *groups)}
    return {"why": None, "biases": biases, "groups": groups, "titles": titles, "rows": rows.to_dicts()}
