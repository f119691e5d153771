"""Bytes per prediction in the results database, by the number of images that one transaction stores of 52 conditions.

Each size fills a database of its own by Store.commit, as a run does, closes it, and reads the file's size and the
blocks that are free in it. The append rate is compared with the same rows and DuckDB's default setting
`max_vacuum_tasks`, in turn. Predictions are those of `store.py`: nothing repeats. The databases are deleted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import duckdb
from _common import arguments, folder, in_turn, machine, ratio, ratios, table, timed
from store import CONDITIONS, SESSION, all_cells, images, ranges

from bandlens.analysis.database import open as opening
from bandlens.core.records import Finished

SIZES = (500, 1_000, 2_000, 2_500, 3_000, 4_000, 5_000, 7_500, 10_000, 20_000)
"""Images in one transaction."""
DUCKDB_DEFAULT = 100
"""DuckDB's own value of `max_vacuum_tasks`."""


@contextmanager
def duckdb_default() -> Iterator[None]:
    """Open stores with DuckDB's default for merging row groups at a checkpoint."""
    connect = duckdb.connect

    def connect_with_default(*words: object, config: dict[str, object] | None = None, **options: object) -> object:
        if config and "max_vacuum_tasks" in config:
            config = config | {"max_vacuum_tasks": DUCKDB_DEFAULT}
        return connect(*words, config=config or {}, **options)  # type: ignore[arg-type]

    with mock.patch.object(opening.duckdb, "connect", connect_with_default):
        yield


def fill(path: Path, parts: list[list[Finished]], count: int, checkpoints: int) -> None:
    """Write all ranges of all checkpoints into a new database, one transaction each, and close it."""
    path.unlink(missing_ok=True)
    image_set = images(count)
    with opening.open_store(path) as store:
        cells = list(itertools.chain(*all_cells(image_set.info, checkpoints)))
        store.begin_study("synthetic", "", cells, [image_set])
        for outcomes in parts:
            store.commit(outcomes, {outcomes[0].cell.variant: SESSION})


def free_share(path: Path) -> float:
    """Return the proportion of the file's blocks that hold nothing."""
    with duckdb.connect(str(path), read_only=True) as connection:
        [(free, total)] = connection.execute("SELECT free_blocks, total_blocks FROM pragma_database_size()").fetchall()
    return float(free / total)


def main() -> None:
    options = arguments(__doc__, repeats=3, quick=1, predictions=(2_600_000, "predictions in each database"))
    sizes, wanted = (SIZES[3:4], 520_000) if options.quick else (SIZES, options.predictions)
    machine("duckdb", "numpy", "polars")
    rows, rates = list[list[object]](), list[float]()
    with folder(options.keep) as scratch:
        for size in sizes:
            transactions = max(2, wanted // (CONDITIONS * size))
            # A checkpoint has at most four transactions, so that no image set is larger than those of studies.
            steps = min(4, transactions)
            checkpoints = max(1, transactions // steps)
            count = steps * size
            image_set = images(count)
            parts = list(ranges(all_cells(image_set.info, checkpoints), image_set.labels, size))
            predictions = len(parts) * CONDITIONS * size
            ours, default = scratch / "ours.duckdb", scratch / "default.duckdb"

            def with_default(path: Path = default, parts: list[list[Finished]] = parts, n: int = count) -> None:
                with duckdb_default():
                    fill(path, parts, n, len(parts) // steps)  # noqa: B023 - called within the loop

            variants = {
                "ours": timed(lambda: fill(ours, parts, count, checkpoints)),  # noqa: B023 - called within the loop
                "default": timed(with_default),
            }
            seconds = in_turn(variants, options.repeats)
            rate = ratios(seconds["default"], seconds["ours"])
            rates += rate
            rows.append(
                [
                    f"{size:,}",
                    f"{ours.stat().st_size / predictions:.2f}",
                    f"{free_share(ours):.1%}",
                    f"{default.stat().st_size / predictions:.2f}",
                    f"{free_share(default):.1%}",
                    [predictions / 1e6 / second for second in seconds["ours"]],
                ]
            )
            for path in (ours, default):
                path.unlink()
    table(
        ["images", "bytes/prediction", "free blocks", "DuckDB's default", "free blocks", "M predictions/s"],
        rows,
    )
    ratio("append rate over that with DuckDB's default setting", rates, ">= 1")


if __name__ == "__main__":
    main()
