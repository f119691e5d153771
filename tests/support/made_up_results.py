"""Results databases without a run: cells and predictions that a test makes up."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import NO_NAMES, ClassNames, Store
from bandlens.core.records import (
    PREDICTION_COLUMNS,
    Cell,
    Condition,
    Finished,
    ImageSetInfo,
    Model,
    Predictions,
    SessionInfo,
    Variant,
    digest_of,
)
from bandlens.probes.family import Family, Parameter, show_images
from bandlens.probes.grid import PROBES

SESSION = SessionInfo("a processor", 8, 1, '{"onnxruntime": "1"}')


@dataclass(frozen=True)
class Images:
    """An image set without pixels."""

    info: ImageSetInfo
    paths: list[str]
    labels: NDArray[np.int32] | None
    clusters: NDArray[np.int32]
    schemes: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int32]]] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    attributes: Mapping[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    own_cycles: float | None = None


def image_set(
    count: int,
    *,
    name: str = "set",
    labels: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    schemes: Mapping[str, Sequence[Sequence[int]]] | None = None,
    paths: Sequence[str] | None = None,
    **info: Any,
) -> Images:
    """`schemes` has a list of classes for each image; `info` has further fields of ImageSetInfo, such as benchmark."""
    cluster_ids = np.arange(count) if clusters is None else clusters
    label_array = None if labels is None else np.asarray(labels, np.int32)
    lists = schemes or {}
    identity = (count, None if label_array is None else label_array.tolist(), np.asarray(cluster_ids).tolist())
    about = {"name": name, "benchmark": "made up", "count": count, "size": 224, "preprocessing": "none"} | info
    digest = digest_of(*identity, dict(lists), list(paths or ()), info)  # the same images under any name
    files = [f"{k}.png" for k in range(count)] if paths is None else list(paths)
    flat = {
        scheme: (
            np.repeat(np.arange(count), [len(classes) for classes in rows]),
            np.array([label for classes in rows for label in classes], np.int32),
        )
        for scheme, rows in lists.items()
    }
    set_info = ImageSetInfo(digest=digest, labelled=labels is not None, **about)
    return Images(set_info, files, label_array, np.asarray(cluster_ids, np.int32), flat)


def model(name: str = "net", *, content: str | None = None, classes: int = 10, category: str = "own") -> Model:
    sha256 = hashlib.sha256((content or name).encode()).hexdigest()
    return Model(name, category, "small", sha256, "made up", "none", Path(f"{name}.onnx"), sha256, 224, classes)


def condition(probe: str = "clean", **parameters: float | str) -> Condition:
    """A condition with the facts of its family, or of a user's probe, whatever its parameters are."""
    user_family = Family(probe, "made up", 1, tuple(Parameter(name, str, ()) for name in parameters), show_images)
    family = PROBES.get(probe, user_family)
    facts = family.facts(parameters, family.axes_of([parameters]))
    return Condition(probe, tuple(parameters.items()), digest_of(probe, parameters), facts)


def variant(checkpoint: Model | None = None, precision: str = "fp32") -> Variant:
    checkpoint = checkpoint or model()
    return Variant(checkpoint, "onnxruntime", precision, checkpoint.path, checkpoint.sha256)


def cell(images: Images, setting: Condition | None = None, *, by: Model | None = None, precision: str = "fp32") -> Cell:
    return Cell(variant(by, precision), images.info, setting or condition(), 0)


def part(
    work: Cell,
    predicted: ArrayLike,
    rank: ArrayLike | None = None,
    first: int = 0,
    confidence: ArrayLike = 0.5,
    label_probability: ArrayLike | None = None,
) -> Finished:
    columns = Predictions(
        np.asarray(predicted, np.uint16),
        None if rank is None else np.asarray(rank, np.uint16),
        np.broadcast_to(np.asarray(confidence, np.float32), np.shape(predicted)),
        label_probability=None if label_probability is None else np.asarray(label_probability, np.float32),
    )
    return Finished(work, first, columns, 0.25)


def store_study(
    store: Store, name: str, images: Images | Sequence[Images], parts: Sequence[Finished], names: ClassNames = NO_NAMES
) -> str:
    """A study of these cells, all of them stored; gives its label."""
    cells = [part.cell for part in parts]
    sets = [images] if isinstance(images, Images) else images
    label = store.begin_study(name, f'name = "{name}"', cells, sets, names)
    progress = store.progress(cells)
    missing = [part for part in parts if not progress[part.cell.key]]
    sessions = {c.variant: SESSION for c in cells}
    commits = dict[tuple[bool, ...], list[Finished]]()  # each has the same columns
    for outcome in missing:
        columns = tuple(getattr(outcome.predictions, name) is None for name in PREDICTION_COLUMNS)
        commits.setdefault(columns, []).append(outcome)
    for outcomes in commits.values():
        store.commit(outcomes, sessions)
    return label


def database_of(
    folder: Path,
    images: Images | Sequence[Images],
    parts: Sequence[Finished],
    name: str = "s",
    *,
    file: str = "results.duckdb",
    measured: bool = False,
) -> Path:
    """A database in the folder with a study of these cells, and with its measures where these are asked for."""
    from bandlens.analysis.metrics.compute import compute_measures

    with open_store(folder / file) as store:
        label = store_study(store, name, images, parts)
        if measured:
            compute_measures(store, label)
    return folder / file


def store_values(store: Store, values: pl.DataFrame) -> None:
    """Put made-up numbers of measures into the place of those that a study has of many conditions.

    `values` has study_id, checkpoint_id, metric and value, and perhaps image_set_id, low, high, state and note.
    """
    for study in values["study_id"].unique():
        store.execute("DELETE FROM measure_value WHERE study = ? AND condition IS NULL", [int(study)])
    for row in values.to_dicts():
        state = row.get("state") or ("missing" if row["value"] is None else "ok")
        keys = [row["study_id"], row["checkpoint_id"], row.get("image_set_id"), row["metric"]]
        numbers = [row["value"], row.get("low"), row.get("high"), state, row.get("note")]
        store.execute(
            "INSERT INTO measure_value (study, checkpoint, image_set, metric, value, low, high, state, note) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            keys + numbers,
        )


def trials_of(
    stimulus_set: str, conditions: str | Sequence[str], subject: str, hits: ArrayLike, first: int = 0
) -> pl.DataFrame:
    """Trials of a person who calls bears bears or cats, under one condition or one of each trial, from `first` on."""
    count = np.size(hits)
    columns = {
        "stimulus_set": stimulus_set,
        "condition": conditions,
        "subject": subject,
        "session": 1,
        "trial": first + np.arange(count),
        "image": [f"n0_{k}.png" for k in range(count)],
        "category": "bear",
        "response": np.where(hits, "bear", "cat"),
    }
    return pl.DataFrame(columns, schema_overrides={"session": pl.Int32, "trial": pl.Int32})


def store_trials(store: Store, *trials: pl.DataFrame) -> None:
    """Put trials of people into the place of those that the database has."""
    store.write_source("humans", store.frame("FROM published_value LIMIT 0"), pl.concat(trials))


def python(code: str, *arguments: object) -> list[str]:
    """The command that runs the code with its arguments as sys.argv[1:]."""
    return [sys.executable, "-P", "-c", code, *map(str, arguments)]
