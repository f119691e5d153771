"""Import predictions that were computed elsewhere into a results database.

The file has one row per image, with the columns `file_name` and `predicted_class`. The columns `predicted_probability`
and `label_probability` are optional. A file with the predictions of several models also has a column `model`.

Imported cells are marked with the engine and the precision `imported`, because the actual ones are unknown. The rank of
the label is unknown as well if a prediction is incorrect: `label_rank` is then 65535, and top-5 accuracy is null.

Each checkpoint becomes a study, and each of its files a cell of this study. Importing predictions on another image set
creates a new version of the study, which also contains the cells of the previous version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...analysis.database.open import open_store
from ...analysis.database.store import Images, Store, check_names
from ...analysis.published.imports import SourceTable, read_csv, read_parquet
from ...analysis.statistics import Mask
from ...core.errors import StoreError, UsageError, some_of
from ...core.files import sha256_of
from ...core.log import log
from ...core.protocol import CLASSES, SIZE
from ...core.records import (
    SEVERAL,
    UNKNOWN_RANK,
    Cell,
    Finished,
    ImageSetInfo,
    Model,
    Predictions,
    SessionInfo,
    Variant,
    digest_of,
)
from ...probes.family import CLEAN
from ...probes.images.image_set import open_image_set
from ...probes.images.labels import Slices, attributes_of_csv, make_slices
from .file import is_study_name
from .label_checks import ADVICE

ENGINE = "imported"
UNKNOWN = "unknown"
FILE_COLUMNS = ("file_name", "predicted_class")
PROBABILITIES = ("predicted_probability", "label_probability")
ROUNDING = 1e-5
"""Maximum difference of two probabilities that count as equal, because of rounding in single precision."""
SUFFIXES = (".parquet", ".csv")
IMPORTED_CELLS = """
SELECT cell.engine, model_sha256, cell.onnx_sha256, condition.digest AS condition, shown.name, shown.benchmark,
       shown.corruption, shown.severity, image_set.* EXCLUDE (id, name, benchmark, corruption, severity)
FROM study_version JOIN study_cell ON study_cell.study = study_id JOIN cell ON cell.id = study_cell.cell
JOIN checkpoint ON checkpoint.id = cell.checkpoint JOIN condition ON condition.id = cell.condition
JOIN image_set ON image_set.id = cell.image_set
JOIN study_image_set AS shown ON shown.study = study_id AND shown.image_set = cell.image_set
WHERE newest AND study_version.study = ?
"""


@dataclass(frozen=True)
class LabelledFiles:
    """An image set with known file names and labels, but without pixels."""

    info: ImageSetInfo
    paths: list[str]
    labels: NDArray[np.int32]
    clusters: NDArray[np.int32]
    schemes: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int32]]]
    class_names: Sequence[str] | None = None
    attributes: Slices = field(default_factory=dict)
    own_cycles: float | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """Summary of the imported predictions of one checkpoint."""

    label: str
    """Name and version of the study that contains them, as name@version."""
    images: int
    """Number of images."""
    top1: float
    """Top-1 accuracy."""
    low: float
    """Lower end of the 95% confidence interval of top-1 accuracy."""
    high: float
    """Upper end of the interval."""


def import_predictions(
    file: Path,
    checkpoints: Sequence[str],
    images: Path,
    database: Path,
    attributes: Path | None = None,
) -> list[Imported]:
    """Import the predictions of several checkpoints on unperturbed images.

    All predictions are validated before anything is written to the database.

    Args:
        file: Parquet or CSV file with the predictions.
        checkpoints: Names of the checkpoints. If there are several, the file needs a column `model`.
        images: Image set, or a table of file names and labels (see `find_images`).
        database: Results database to write to.
        attributes: CSV file with image attributes, for a table of labels only.

    Returns:
        A summary for each checkpoint.

    Raises:
        UsageError: A file or a checkpoint does not exist.
        StoreError: The file has invalid contents.
    """
    for name in checkpoints:
        if not is_study_name(name):
            raise UsageError(f"--checkpoint must be a line of text without @, which asks for a version, not {name!r}")
    labelled = find_images(images, attributes)
    if labelled.labels is None:
        raise UsageError(f"{labelled.info.name} has no labels, so no prediction could be right; give a labelled set")
    table, digest = _read(file, FILE_COLUMNS), sha256_of(file)
    if len(checkpoints) > 1 and "model" not in table.rows.columns:
        raise UsageError(f"{file} has no column model, so its predictions are of one; give one --checkpoint")
    session = SessionInfo(UNKNOWN, 1, 1, json.dumps({"predictions": file.name, "sha256": digest}))
    parts = []
    for name in checkpoints:
        identity = digest_of("imported predictions", name, UNKNOWN)
        source, size = "imported predictions", labelled.info.size
        model = Model(name, "own", UNKNOWN, UNKNOWN, source, UNKNOWN, file, identity, size, CLASSES)
        variant = Variant(model, ENGINE, ENGINE, file, digest_of(identity, digest))
        (clean,) = CLEAN.conditions({})
        predicted, confidence, label_probability = _in_order(_select_model(table, name), labelled)
        if (last := predicted.max()) >= (count := len(labelled.class_names or ()) or CLASSES):
            doubt = f"has labels of {count:,} classes and {name} predicts {last}, so that a label may be the number of"
            log.warning(f"bandlens: warning: image set {labelled.info.name} {doubt} another class; {ADVICE}")
        rank = np.where(predicted == labelled.labels, 0, UNKNOWN_RANK).astype(np.uint16)
        if SEVERAL in labelled.schemes:
            index, classes = labelled.schemes[SEVERAL]
            rank[index[predicted[index] == classes]] = 0
        _check_probabilities(file, labelled.paths, rank == 0, confidence, label_probability)
        predictions = Predictions(predicted.astype(np.uint16), rank, confidence, label_probability=label_probability)
        parts.append(Finished(Cell(variant, labelled.info, clean, 0), 0, predictions, 0.0))
    imported = []
    with open_store(database) as store:
        studies = [_study_with(store, part.cell) for part in parts]
        for part, cells in zip(parts, studies, strict=True):
            label = store.begin_study(part.cell.model.name, "# imported predictions", cells, [labelled])
            if not store.progress([part.cell])[part.cell.key]:  # otherwise they were imported before
                store.commit([part], {part.cell.variant: session})
            query = "SELECT n, top1, low, high FROM accuracy_of(?) WHERE image_set = ?"
            imported.append(Imported(label, *store.frame(query, [label, labelled.info.name]).row(0)))
    return imported


def _check_probabilities(
    file: Path,
    paths: Sequence[str],
    hits: Mask,
    confidence: NDArray[np.float32],
    label_probability: NDArray[np.float32],
) -> None:
    """Raise StoreError if the two probabilities of an image contradict its prediction.

    They must be equal if the label is predicted. Otherwise, the probability of the label must not be larger than that
    of the prediction. Unknown probabilities, which are NaN, pass because comparisons with NaN are false.
    """
    excess = label_probability - confidence
    conflicts = np.flatnonzero(np.where(hits, np.abs(excess), excess) > ROUNDING)
    if len(conflicts):
        image = conflicts[0]
        raise StoreError(
            f"{file}: {paths[image]} has label_probability {label_probability[image]:.6g} and predicted_probability "
            f"{confidence[image]:.6g}, and its prediction is {'right' if hits[image] else 'wrong'}; the two are equal "
            "where it is right, and the label has no more where it is wrong; export the predictions again"
        )


def _study_with(store: Store, new_cell: Cell) -> list[Cell]:
    """Return the cells of a checkpoint's study with a new cell, which replaces a cell on the same image set.

    Raises:
        UsageError: A study of this name was computed by bandlens, or the names of checkpoints or image sets are not
            unique.
    """
    rows = store.frame(IMPORTED_CELLS, [new_cell.model.name]).rows(named=True)
    if any(row["engine"] != ENGINE for row in rows):
        raise UsageError(
            f"{store.path}: the study {new_cell.model.name} is not of imported predictions; "
            "give it another name with `bandlens studies rename`"
        )
    cells = [_read_cell(row, new_cell) for row in rows if row["digest"] != new_cell.image_set.digest]
    check_names([*cells, new_cell])
    return [*cells, new_cell]


def _read_cell(row: Mapping[str, Any], like: Cell) -> Cell:
    """Create the cell of a database row. It equals the cell `like` of the same checkpoint except for its image set."""
    model = replace(like.model, sha256=row["model_sha256"])
    images = ImageSetInfo(**{field.name: row[field.name] for field in fields(ImageSetInfo)})
    return replace(
        like,
        variant=replace(like.variant, model=model, sha256=row["onnx_sha256"]),
        image_set=images,
        condition=replace(like.condition, digest=row["condition"]),
    )


def find_images(path: Path, attributes: Path | None = None) -> Images:
    """Open a packed image set, or read a table of labels if the pixels are not available.

    Args:
        path: Folder of an image set, or a Parquet or CSV file with the columns `file_name` and `label`.
        attributes: CSV file with attributes of the images in a table. An image set has its own.
    """
    if path.suffix not in SUFFIXES:
        if attributes is not None:
            raise UsageError(f"{path} is an image set; give {attributes} to it with `bandlens images attributes`")
        return open_image_set(path)
    table = _read(path, ("file_name", "label"))
    names, labels = table.rows["file_name"].to_list(), _classes(table, "label")
    table.check_distinct("file_name")
    info = ImageSetInfo(
        path.stem, "imagenet", digest_of("labelled files", names, labels.tolist()), len(names), SIZE, "unknown", True
    )
    slices = make_slices(attributes_of_csv(attributes, names), names) if attributes else {}
    classes, clusters = labels.astype(np.int32), np.arange(len(names), dtype=np.int32)
    return LabelledFiles(info, names, classes, clusters, {}, attributes=slices)


def _read(file: Path, columns: tuple[str, ...]) -> SourceTable:
    if not file.is_file():
        raise UsageError(f"no file {file}; give a Parquet or CSV file of {', '.join(columns)}")
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file} is neither .parquet nor .csv; give one of {', '.join(columns)}")
    rows = read_csv(file) if file.suffix == ".csv" else read_parquet(file)
    table = SourceTable(file, rows)
    table.check_columns(columns, advice=f"it has {', '.join(rows.columns)}")
    if rows.is_empty():
        raise StoreError(f"{file} has no rows; export the predictions again")
    return replace(table, rows=rows.cast({"file_name": pl.String}))


def _select_model(table: SourceTable, checkpoint: str) -> SourceTable:
    if "model" not in table.rows.columns:
        return table
    rows = table.rows.filter(pl.col("model") == checkpoint)
    if rows.is_empty():
        models = ", ".join(map(str, table.rows["model"].unique(maintain_order=True).head(10)))
        raise UsageError(
            f"{table.file} holds no predictions of {checkpoint}, but of {models}; name one with --checkpoint"
        )
    return replace(table, rows=rows)


def _classes(table: SourceTable, name: str) -> NDArray[np.int64]:
    column = table.rows[name]
    if not column.dtype.is_integer():
        raise StoreError(f"{table.where(0, name)}: {column[0]} is no class; give whole numbers from 0 to 999")
    is_invalid = column.is_null() | ~column.is_between(0, CLASSES - 1).fill_null(False)
    table.refuse(name, is_invalid, "{value} is no class from 0 to 999")
    return np.asarray(column.to_numpy(), np.int64)


def _in_order(table: SourceTable, images: Images) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Return the predicted classes and both probabilities in the order of the images, each with shape (n,).

    Rows are matched to images by path, or by file name if none of the paths matches.
    """
    table.check_distinct("file_name")
    classes, files = _classes(table, "predicted_class"), table.rows["file_name"]
    confidence, label_probability = (_probabilities(table, name) for name in PROBABILITIES)
    by_path = set(files) & set(images.paths)
    names = list(images.paths) if by_path else [PurePosixPath(path).name for path in images.paths]
    if len(set(names)) < len(names):
        table.refuse("file_name", ~files.is_in(images.paths), f"{{value}} is no path of the set like {images.paths[0]}")
    row_of = {name: row for row, name in enumerate(files)}
    absent = [name for name in names if name not in row_of]
    if absent:
        raise StoreError(f"{table.file}: no row for {some_of(absent)} of {len(names)} images of the set")
    table.refuse("file_name", ~files.is_in(names), f"{{value}} is no image of {images.info.name}")
    rows = np.array([row_of[name] for name in names])
    return classes[rows], confidence[rows], label_probability[rows]


def _probabilities(table: SourceTable, name: str) -> NDArray[np.float32]:
    """Return a column of probabilities, or NaN for each row if the file has no such column."""
    if name not in table.rows.columns:
        return np.full(len(table.rows), np.nan, np.float32)
    column = table.rows[name].cast(pl.Float64, strict=False)
    is_invalid = column.is_null() | column.is_nan() | ~column.is_between(0, 1)
    table.refuse(name, is_invalid.fill_null(True), "{value} is no probability")
    return column.to_numpy().astype(np.float32)
