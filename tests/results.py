"""Results databases without a run: cells and predictions that a test makes up."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandlens.analysis.store import Store
from bandlens.records import (
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

SESSION = SessionInfo("a processor", 8, 1, '{"onnxruntime": "1"}')


@dataclass(frozen=True)
class Images:
    """An image set without pixels."""

    info: ImageSetInfo
    paths: list[str]
    labels: NDArray[np.int32] | None
    clusters: NDArray[np.int32]


def image_set(
    count: int, *, name: str = "set", labels: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> Images:
    own = np.arange(count) if clusters is None else clusters
    digest = digest_of(count, None if labels is None else np.asarray(labels).tolist(), np.asarray(own).tolist())
    info = ImageSetInfo(name, "made up", digest, count, 224, "none", labels is not None)
    paths = [f"{k}.png" for k in range(count)]
    given = None if labels is None else np.asarray(labels, np.int32)
    return Images(info, paths, given, np.asarray(own, np.int32))


def model(name: str = "net", *, content: str | None = None, classes: int = 10, category: str = "own") -> Model:
    sha256 = hashlib.sha256((content or name).encode()).hexdigest()
    return Model(name, category, "small", sha256, "made up", "none", Path(f"{name}.onnx"), sha256, 224, classes)


def condition(family: str = "clean", **parameters: float | str) -> Condition:
    return Condition(family, tuple(parameters.items()), digest_of(family, parameters))


def variant(of: Model | None = None, precision: str = "fp32") -> Variant:
    of = of or model()
    return Variant(of, "onnxruntime", precision, of.path, of.sha256)


def cell(images: Images, of: Condition | None = None, *, by: Model | None = None, precision: str = "fp32") -> Cell:
    return Cell(variant(by, precision), images.info, of or condition(), 0)


def part(of: Cell, predicted: ArrayLike, rank: ArrayLike | None = None, first: int = 0) -> Finished:
    columns = Predictions(
        np.asarray(predicted, np.uint16),
        None if rank is None else np.asarray(rank, np.uint16),
        np.full(np.shape(predicted), 0.5, np.float32),
    )
    return Finished(of, first, columns, 0.25)


def store_study(store: Store, name: str, images: Images, parts: Sequence[Finished]) -> str:
    """A study of these cells, all of them stored; gives its label."""
    cells = [one.cell for one in parts]
    label = store.begin_study(name, f'name = "{name}"', cells, [images])
    known = store.progress(cells)
    store.commit([one for one in parts if not known[one.cell.key]], {c.variant: SESSION for c in cells})
    return label


def python(code: str, *arguments: object) -> list[str]:
    """The command that runs the code with its arguments as sys.argv[1:]."""
    return [sys.executable, "-P", "-c", code, *map(str, arguments)]
