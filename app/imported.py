"""Predictions that were made elsewhere, as cells of a results database: marked as imported, with where they came from.

A file has one row an image: file_name, predicted_class, and predicted_probability, which may be left out; where it
holds several models, a column `model`. What ran them, and on what, is not known: engine and precision read `imported`.
Of a wrong prediction the rank of the label is not known either: label_rank reads 65535, and top-5 is null.

A checkpoint is a study, and each of its files a cell: one more image set is a new version, which has the others too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..analysis.database.store import Images, Store, check_names
from ..analysis.published.sources import read_parquet
from ..errors import StoreError, UsageError
from ..probes.clean import CLEAN
from ..probes.images.image_set import open_image_set
from ..protocol import CLASSES, SIZE
from ..records import Cell, Finished, ImageSetInfo, Model, Predictions, SessionInfo, Variant, digest_of
from ..untrusted import first_line

ENGINE = "imported"
UNKNOWN = "unknown"
UNKNOWN_RANK = 65_535
"""label_rank of a label that is not the prediction."""
NEEDED = ("file_name", "predicted_class")
PROBABILITY = "predicted_probability"
SUFFIXES = (".parquet", ".csv")
STORED = """
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
    """An image set of which names and labels are known, and no pixels."""

    info: ImageSetInfo
    paths: list[str]
    labels: NDArray[np.int32]
    clusters: NDArray[np.int32]
    schemes: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int32]]]
    class_names: Sequence[str] | None = None


def read_predictions(file: Path, checkpoint: str, images: Images, weights_sha256: str = UNKNOWN) -> Finished:
    """A checkpoint's predictions on unperturbed images, as the only part of a cell.

    Raises UsageError where the file or the checkpoint in it is not there, and StoreError for what it holds otherwise.
    """
    table = _of_model(_read(file, NEEDED), file, checkpoint)
    if images.labels is None:
        raise UsageError(f"{images.info.name} has no labels, so no prediction could be right; give a labelled set")
    predicted, probability = _in_order(table, file, images)
    identity = digest_of("imported predictions", checkpoint, weights_sha256)
    source, size = "imported predictions", images.info.size
    model = Model(checkpoint, "own", UNKNOWN, weights_sha256, source, UNKNOWN, file, identity, size, CLASSES)
    variant = Variant(model, ENGINE, ENGINE, file, digest_of(identity, _sha256(file)))
    (clean,) = CLEAN.conditions({})
    cell = Cell(variant, images.info, clean, 0)
    rank = np.where(predicted == images.labels, 0, UNKNOWN_RANK).astype(np.uint16)
    return Finished(cell, 0, Predictions(predicted.astype(np.uint16), rank, probability), 0.0)


def study_with(store: Store, added: Cell) -> list[Cell]:
    """The cells of a checkpoint's study with one more, which takes the place of the one on the same image set.

    Raises UsageError where a study of that name ran here, or the cells' checkpoints or image sets cannot be told apart.
    """
    stored = store.frame(STORED, [added.model.name]).rows(named=True)
    if any(row["engine"] != ENGINE for row in stored):
        raise UsageError(
            f"{store.path}: the study {added.model.name} is not of imported predictions; "
            "give it another name with `bandlens studies rename`"
        )
    cells = [_stored(row, added) for row in stored if row["digest"] != added.image_set.digest]
    check_names([*cells, added])
    return [*cells, added]


def _stored(row: Mapping[str, Any], like: Cell) -> Cell:
    """A cell of the database, on another image set than one of the same checkpoint that is like it otherwise."""
    model = replace(like.model, sha256=row["model_sha256"])
    images = ImageSetInfo(**{one.name: row[one.name] for one in fields(ImageSetInfo)})
    return replace(
        like,
        variant=replace(like.variant, model=model, sha256=row["onnx_sha256"]),
        image_set=images,
        condition=replace(like.condition, digest=row["condition"]),
    )


def store_predictions(store: Store, part: Finished, cells: Sequence[Cell], images: Images) -> str:
    """Record imported predictions in the study of the checkpoint's name, and give its label; known ones stay.

    `cells` are those of `study_with`.
    """
    cell, file = part.cell, part.cell.variant.path
    label = store.begin_study(cell.model.name, "# imported predictions", cells, [images])
    if not store.progress([cell])[cell.key]:
        versions = json.dumps({"predictions": file.name, "sha256": _sha256(file)})
        store.commit([part], {cell.variant: SessionInfo(UNKNOWN, 1, 1, versions)})
        of_cell = "FROM cell WHERE cell.id = part.cell AND cell.key = ?"
        store.execute(f"UPDATE part SET right5 = NULL {of_cell} AND right1 < count", [cell.key])  # noqa: S608
    return label


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def find_images(path: Path) -> Images:
    """A packed image set; or a table of file_name and label, Parquet or CSV, of which no pixels are needed."""
    if path.suffix not in SUFFIXES:
        return open_image_set(path)
    table = _read(path, ("file_name", "label"))
    names, labels = table["file_name"].to_list(), _classes(table, "label", path)
    _once(table, path)
    info = ImageSetInfo(
        path.stem, "imagenet", digest_of("labelled files", names, labels.tolist()), len(names), SIZE, "unknown", True
    )
    return LabelledFiles(info, names, labels.astype(np.int32), np.arange(len(names), dtype=np.int32), {})


def _read(file: Path, needed: tuple[str, ...]) -> pl.DataFrame:
    if not file.is_file():
        raise UsageError(f"no file {file}; give a Parquet or CSV file of {', '.join(needed)}")
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file} is neither .parquet nor .csv; give one of {', '.join(needed)}")
    try:
        table = pl.read_csv(file) if file.suffix == ".csv" else read_parquet(file)
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise StoreError(f"{file} is not a CSV file ({first_line(error)}); export the predictions again") from error
    absent = [name for name in needed if name not in table.columns]
    if absent:
        raise StoreError(f"{file}, row 1: no column {absent[0]}; it has {', '.join(table.columns)}")
    if table.is_empty():
        raise StoreError(f"{file} has no rows; export the predictions again")
    return table.cast({"file_name": pl.String})


def _of_model(table: pl.DataFrame, file: Path, checkpoint: str) -> pl.DataFrame:
    if "model" not in table.columns:
        return table
    mine = table.filter(pl.col("model") == checkpoint)
    if mine.is_empty():
        known = ", ".join(map(str, table["model"].unique(maintain_order=True).head(10)))
        raise UsageError(f"{file} holds no predictions of {checkpoint}, but of {known}; name one with --checkpoint")
    return mine


def _classes(table: pl.DataFrame, name: str, file: Path) -> NDArray[np.int64]:
    column = table[name]
    if not column.dtype.is_integer():
        raise StoreError(f"{file}, row 1, column {name}: {column.dtype} is no class; give numbers from 0 to 999")
    if (wrong := (column.is_null() | ~column.is_between(0, CLASSES - 1)).fill_null(True).arg_true()).len():
        raise StoreError(
            f"{file}, row {wrong[0] + 1}, column {name}: {column[int(wrong[0])]} is no class from 0 to 999"
        )
    return np.asarray(column.to_numpy(), np.int64)


def _once(table: pl.DataFrame, file: Path) -> None:
    if (again := (~table["file_name"].is_first_distinct()).arg_true()).len():
        row = int(again[0])
        raise StoreError(f"{file}, row {row + 1}, column file_name: {table['file_name'][row]} is there more than once")


def _in_order(table: pl.DataFrame, file: Path, images: Images) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Classes and probabilities in the order of the images, which files are found by, by path or else by name."""
    _once(table, file)
    classes = _classes(table, "predicted_class", file)
    probability = np.full(len(table), np.nan, np.float32)
    if PROBABILITY in table.columns:
        column = table[PROBABILITY].cast(pl.Float64, strict=False)
        wrong = (column.is_null() | column.is_nan() | ~column.is_between(0, 1)).fill_null(True).arg_true()
        if len(wrong):
            value = table[PROBABILITY][int(wrong[0])]
            raise StoreError(f"{file}, row {wrong[0] + 1}, column {PROBABILITY}: {value} is no probability")
        probability = column.to_numpy().astype(np.float32)
    by_path = set(table["file_name"]) & set(images.paths)
    names = list(images.paths) if by_path else [PurePosixPath(path).name for path in images.paths]
    if len(set(names)) < len(names):
        raise UsageError(f"{images.info.name} has files of one name in several folders; give paths as file_name")
    row_of = {name: row for row, name in enumerate(table["file_name"])}
    absent = [name for name in names if name not in row_of]
    if absent:
        raise StoreError(f"{file}: no row for {absent[0]} and {len(absent) - 1} more of {len(names)} images of the set")
    if len(row_of) > len(names):
        odd = next(iter(row_of.keys() - set(names)))
        raise StoreError(f"{file}, row {row_of[odd] + 1}, column file_name: {odd} is no image of {images.info.name}")
    rows = np.array([row_of[name] for name in names])
    return classes[rows], probability[rows]
