"""Answers to the page's questions: a study, its accuracies, a coefficient of chosen models, and selected images.

Answers are plain data for JSON. Accuracies are counted once for each study and kept; of predictions only those of the
cells in question are read.
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
"""Resamples behind a coefficient's interval: it is drawn again with every selection."""
PAGE_TILES = 120
"""Images that one answer shows."""
MEMORY_LIMIT = "256MB"
"""DuckDB's share: the page reads a few cells at a time, but the views that it asks take 50 to 70 MB at their least."""

SELECTIONS = {
    "flips": "a.predicted <> a_clean.predicted",
    "flips_only_a": "a.predicted <> a_clean.predicted AND b.predicted = b_clean.predicted",
    "errors": "a.label_rank > 0",
    "all": "true",
}
"""Name of a selection -> what it asks of the answers of model a, and of model b where there is one."""
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
    """Images of a set under a condition, chosen by the answers of models."""

    study: str
    image_set: str
    condition: str
    """Digest of the condition."""
    a: str
    """The model whose answers choose."""
    b: str | None
    """A second model, which `flips_only_a` takes."""
    selection: str
    """One of SELECTIONS."""
    label: int | None
    """The class that the images are labelled with; None for any."""
    models: Sequence[str]
    """The models whose answers are told."""
    offset: int = 0
    limit: int = 24
    scheme: str | None = None
    """label.scheme that `label` is a class of; None for that of the labels which predictions are ranked by."""
    attribute: str | None = None
    """The name of an attribute of the images; None for any image."""
    attribute_value: str | None = None
    """The value of this attribute that the images have."""


@dataclass(slots=True)
class StudyTables:
    """Tables of one study, read from the database once."""

    cells: pl.DataFrame
    """One row a complete cell, with its accuracy and the digest of its condition."""
    conditions: pl.DataFrame
    """Conditions of the study in the order in which they are shown, as `read_conditions` gives them."""
    table: StudyTable | Missing
    """Biases and accuracies of each model; or why there are none to correlate."""
    verdict: list[str]
    """The sentences of the verdict: see `comparison.verdict`."""


class Answers:
    """One database, opened anew whenever a run has renewed it. Its methods may be called from several threads."""

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
        """The database as it lies there now, for one thread at a time."""
        with self._lock:
            stat = self._path.stat() if self._path.exists() else None
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size) if stat else ()
            if self._store is None or self._stamp != stamp:
                self._stack.close()
                self._store, self._stamp, self._tables = None, stamp, {}
                self._store = self._stack.enter_context(open_store(self._path, read_only=True))
                self._store.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            yield self._store

    def study(self, name: str | None) -> dict[str, Any]:
        """A study, the one that ran last unless it is named: its models, image sets, conditions and accuracies."""
        with self._database() as store:
            label = study_label(store, name or last_run(store))
            tables = self._read_tables(store, label)
            query = (
                "SELECT label FROM version_of('*') JOIN study ON study.id = study_id ORDER BY last_run DESC, id DESC"
            )
            labels = store.frame(query)["label"].to_list()
            cells = tables.cells
            picture_digests = {digest for digest in cells["digest"].unique() if self._images(store, digest)}
        # Conditions are told by their frequencies where these are the same on all image sets.
        varies = pl.col("cycles").n_unique() > 1
        cycles = cells.group_by(digest="condition").agg(cycles=pl.when(~varies).then(pl.col("cycles").first()))
        conditions = tables.conditions.join(cycles, on="digest", maintain_order="left")
        # The order and the looks are those of the report's curves.
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
        """A condition in words, with where charts place it, and why there are no pictures under it."""
        names = ("probe", "place", "series", "x", "x_title", "y", "y_title", "cuts")
        return {
            "id": row["digest"],
            "words": f"{row['probe']} {row['setting']}".rstrip(),
            "setting": row["setting_in_cycles"],
            **{name: row[name] for name in names},
            "unseen": self._conditions.why_not(row["probe"], row["parameters"], row["digest"]),
        }

    def correlation(self, study: str, bias: str, group: str, models: Sequence[str]) -> dict[str, Any]:
        """Spearman's coefficient of a bias with an accuracy over these models, with its 95 % interval over models."""
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
        """The images of a query, each with what every model of it says, and B minus A as `bandlens compare` has it."""
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
            """The name of a class of a model of so many classes."""
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
        """Choices among the set's images: classes by each scheme of labels, first that which predictions are ranked by;
        and attributes, name and value.
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
        """Model -> the shares of an image that it owes to the seven octaves, of models that ran all of their masks.

        Models at chance are left out, as the report leaves them out: nobody can tell what they owe to an octave.
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
        """The PNG of an image of a packed set, under a condition of the database if one is given."""
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
        """The images of a set of the database, all or some of a set that was found."""
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
    """Numbers for IN (…), -1 if there are none. DuckDB skips what it need not read by a list in the text alone."""
    return ", ".join(map(str, map(int, numbers))) or "-1"


def _cell_of(cells: pl.DataFrame, model: str) -> dict[str, Any]:
    """The row of a model among the cells of an image set and condition."""
    rows = cells.filter(checkpoint=model)
    if rows.is_empty():
        raise UsageError(f"{model} has no results for these images under this condition; choose others")
    return rows.row(0, named=True)


def _answers_of(store: Store, cells: pl.DataFrame, numbers: str) -> dict[int, list[dict[str, Any]]]:
    """Image -> what each model says of it, perturbed and clean."""
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
    """Whether a prediction is the label; None where there is no label, or no prediction."""
    return None if label is None or predicted is None else label_rank == 0


def _metrics(table: StudyTable | Missing) -> dict[str, Any]:
    """The values of the scatter, those that most models have first, or why there are none."""
    if isinstance(table, Missing):
        return {"why": table.reason, "biases": [], "groups": [], "titles": {}, "rows": []}
    columns = [f"{name}{end}" for name in (*table.biases, *table.groups) for end in ("", "_low", "_high")]
    rows = table.frame.select("checkpoint", *(column for column in columns if column in table.frame.columns))
    biases, groups = (sorted(names, key=lambda name: rows[name].null_count()) for names in (table.biases, table.groups))
    titles = {name: table.title(name) for name in (*biases, *groups)}
    return {"why": None, "biases": biases, "groups": groups, "titles": titles, "rows": rows.to_dicts()}
