"""The results database at the size of the study: 48 checkpoints x 52 conditions x 50,000 images, or more.

Appending: Store.commit, range by range as a run does; the first ranges in turn with a bare INSERT of an Arrow table
that is ready into a file with nothing but that table. Then, on the file opened anew: the `accuracy` view, in turn with
one GROUP BY over the predictions, which is the least that reading them would cost. Everything on two processors.

label_rank, predicted and probabilities are drawn for each prediction, so nothing repeats. The database is deleted.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from _common import arguments, folder, in_turn, machine, ratio, ratios, table, timed
from numpy.typing import NDArray

from bandlens.analysis.database.open import open_store
from bandlens.app.study.external_predictions import LabelledFiles
from bandlens.core.records import Cell, Finished, ImageSetInfo, Model, Predictions, SessionInfo, Variant, digest_of
from bandlens.probes.grid import PUBLISHED, make_grid

CLASSES = 1000
CONDITIONS = 52
COLUMNS = (
    "cell INTEGER, image_index UINTEGER, predicted USMALLINT, label_rank USMALLINT, confidence REAL, "
    "label_probability REAL"
)
VIEW = "FROM accuracy"
PLAIN = (
    "SELECT cell, count(*), count(*) FILTER (label_rank = 0), count(*) FILTER (label_rank < 5) "
    "FROM prediction GROUP BY cell"
)
SESSION = SessionInfo("synthetic", 32, 2, "{}")
COMPARED = 12
"""Ranges that are stored a second time, by a bare INSERT."""


def images(count: int, cluster_size: int = 1) -> LabelledFiles:
    """An image set as the database knows it, labelled at random, with so many images in each cluster."""
    info = ImageSetInfo("synthetic", "synthetic", digest_of("synthetic", count), count, 224, "none", True)
    labels = np.random.default_rng(0).integers(0, CLASSES, count).astype(np.int32)
    paths = [f"{label:03}/{k:08}.JPEG" for k, label in enumerate(labels)]
    return LabelledFiles(info, paths, labels, np.arange(count, dtype=np.int32) // cluster_size, {})


def all_cells(info: ImageSetInfo, checkpoints: int, engine: str = "onnxruntime") -> list[list[Cell]]:
    """The cells of each checkpoint."""
    conditions = make_grid(PUBLISHED, Path()).conditions
    first = Model("", "", "resnet50", "", "synthetic", "none", Path("model.onnx"), "", 224, CLASSES)
    models = [
        replace(first, name=f"model{k}", category=f"group{k % 8}", sha256=digest_of(k)) for k in range(checkpoints)
    ]
    variants = [Variant(m, engine, "fp32", m.path, m.sha256) for m in models]
    return [[Cell(variant, info, condition, 0) for condition in conditions] for variant in variants]


def predictions(random: np.random.Generator, labels: NDArray[np.int32]) -> Predictions:
    """Predictions of a cell whose accuracy is anything from 1 to 80 %."""
    n, accuracy = len(labels), random.uniform(0.01, 0.8)
    correct = random.random(n, np.float32) < accuracy
    # Ranks of wrong predictions spread over orders of magnitude, as they do in networks.
    ranks = np.exp(random.random(n, np.float32) * np.float32(np.log(CLASSES))).astype(np.uint16)
    guesses = (labels + random.integers(1, CLASSES, n)) % CLASSES  # another class than the label
    confidence = np.sqrt(random.random(n, np.float32))
    return Predictions(
        predicted=np.where(correct, labels, guesses).astype(np.uint16),
        label_rank=np.where(correct, np.uint16(0), np.clip(ranks, 1, CLASSES - 1)).astype(np.uint16),
        confidence=confidence,
        label_probability=np.where(correct, confidence, confidence * random.random(n, np.float32) ** 4),
    )


def ranges(cells: list[list[Cell]], labels: NDArray[np.int32], size: int) -> Iterator[list[Finished]]:
    """For each checkpoint, range by range, the parts of all of its cells: `size` images of each.

    The predictions of a checkpoint are the same whichever others there are.
    """
    for checkpoint_cells in cells:
        random = np.random.default_rng(list(checkpoint_cells[0].model.name.encode()))
        for first in range(0, len(labels), size):
            part = labels[first : first + size]
            yield [Finished(cell, first, predictions(random, part), 1.0) for cell in checkpoint_cells]


def fill(path: Path, study: str, count: int, checkpoints: range, size: int) -> int:
    """Make a database of these checkpoints, stored by `size` images of each; gives the number of predictions."""
    image_set = images(count)
    cells = all_cells(image_set.info, checkpoints.stop)[checkpoints.start :]
    with open_store(path) as store:
        store.begin_study(study, "", list(itertools.chain(*cells)), [image_set])
        for parts in ranges(cells, image_set.labels, size):
            store.commit(parts, {parts[0].cell.variant: SESSION})
    return count * sum(map(len, cells))


def arrow(parts: list[Finished]) -> pa.Table:
    lengths = [len(part.predictions.predicted) for part in parts]
    columns = {
        name: np.concatenate([getattr(part.predictions, name) for part in parts])
        for name in ("predicted", "label_rank", "confidence", "label_probability")
    }
    cell = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
    index = np.concatenate([np.arange(n, dtype=np.uint32) for n in lengths])
    return pa.table({"cell": cell, "image_index": index, **columns})


def insert(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    connection.register("loaded", rows)
    connection.execute("INSERT INTO prediction FROM loaded")
    connection.unregister("loaded")


@dataclass(frozen=True)
class Appended:
    counts: list[int]
    """Predictions of each range."""
    commits: list[float]
    inserts: list[float]
    """Seconds of each of the first ranges by a bare INSERT."""
    closing: float


def append(path: Path, image_set: LabelledFiles, checkpoints: int, size: int) -> Appended:
    """Fill a database."""
    cells = all_cells(image_set.info, checkpoints)
    counts, commits, inserts = [], [], []
    beside = path.with_suffix(".bare")
    bare = duckdb.connect(str(beside))
    bare.execute(f"CREATE TABLE prediction ({COLUMNS})")
    database = open_store(path)
    store = database.__enter__()
    store.begin_study("synthetic", "", list(itertools.chain(*cells)), [image_set])
    for number, parts in enumerate(ranges(cells, image_set.labels, size)):
        sessions = {parts[0].cell.variant: SESSION}
        counts.append(sum(len(part.predictions.predicted) for part in parts))
        commits.append(timed(lambda parts=parts, sessions=sessions: store.commit(parts, sessions))())
        if number < COMPARED:
            rows = arrow(parts)
            inserts.append(timed(lambda rows=rows: insert(bare, rows))())
    bare.close()
    beside.unlink()
    return Appended(counts, commits, inserts, timed(lambda: database.__exit__(None, None, None))())


def query(path: Path, cells: int, repeats: int) -> tuple[float, list[float], list[float]]:
    """Seconds of the view when the file has just been opened, of the view again and again, and of the plain query."""
    with open_store(path) as store:
        first = timed(lambda: store.frame(VIEW))()
        rows = len(store.frame(VIEW))
        if rows != cells:
            raise SystemExit(f"the view has {rows} rows")
        seconds = in_turn({VIEW: timed(lambda: store.frame(VIEW)), PLAIN: timed(lambda: store.frame(PLAIN))}, repeats)
    return first, seconds[VIEW], seconds[PLAIN]


def opening(path: Path) -> None:
    with open_store(path, read_only=True):
        pass


def main() -> None:
    options = arguments(
        __doc__,
        repeats=9,
        quick=1,
        range=(2_500, "images in one transaction"),
        checkpoints=(48, "with 52 cells each"),
        cluster=(1, "images in a cluster"),
    )
    count, checkpoints = (5_000, 6) if options.quick else (50_000, options.checkpoints)
    image_set = images(count, options.cluster)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # DuckDB has a thread for each
    machine("duckdb", "numpy", "pyarrow", "polars")
    with folder(options.keep) as scratch:
        path = scratch / "synthetic.duckdb"
        path.unlink(missing_ok=True)
        try:
            appended = append(path, image_set, checkpoints, min(options.range, len(image_set.labels)))
            size = path.stat().st_size
            open_seconds = in_turn({"": timed(lambda: opening(path))}, options.repeats)[""]
            first, view, plain = query(path, checkpoints * CONDITIONS, options.repeats)
        finally:
            path.unlink(missing_ok=True)
    report(appended, size, open_seconds, first, view, plain)


def report(
    appended: Appended, size: int, open_seconds: list[float], first: float, view: list[float], plain: list[float]
) -> None:
    predictions = sum(appended.counts)
    rates = [n / s / 1e6 for n, s in zip(appended.counts, appended.commits, strict=True)]
    overall = predictions / (sum(appended.commits) + appended.closing) / 1e6
    head, scale = statistics.median(appended.counts), predictions / 124.8e6
    print(f"{predictions / 1e6:.1f} M predictions in {len(rates)} transactions of {head:,.0f}")
    table(
        ["what", "figure", "goal"],
        [
            ["append, M predictions/s, all with closing", f"{overall:.2f}", ">= 2"],
            ["append, M predictions/s, by transaction", rates, ">= 2"],
            ["file, GB", f"{size / 1e9:.3f}", f"<= {1.6 * scale:.2f}"],
            ["file, bytes a prediction", f"{size / predictions:.2f}", "-"],
            ["opening, s", open_seconds, "-"],
            ["accuracy of all cells, just opened, s", f"{first:.3f}", f"<= {1.5 * scale:.2f}"],
            ["accuracy of all cells, s", view, f"<= {1.5 * scale:.2f}"],
            ["plain GROUP BY, s", plain, "-"],
        ],
    )
    compared = ratios(appended.commits[: len(appended.inserts)], appended.inserts)
    ratio("Store.commit over bare INSERT, time", compared, "none")
    tenth = max(1, len(rates) // 10)
    change = statistics.median(rates[-tenth:]) / statistics.median(rates[:tenth])
    ratio("append rate, last tenth of the transactions over the first", [change], "1")
    ratio("accuracy view over plain GROUP BY, time", ratios(view, plain), "none")


if __name__ == "__main__":
    main()
