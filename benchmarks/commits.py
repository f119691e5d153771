"""The time a run's driver takes to bring shards into the database: one in a transaction, several, or none yet.

Shards are made up: 1,392 cells (29 conditions of 48 checkpoints) over 752 images each, a task of a GPU. `one by one`
commits each as it comes; `together` those of five seconds, 8 M predictions at most; `later` (`run --commit later`)
leaves them for `bandlens rebuild`, and only takes note of them. `DuckDB alone` is what no commit can be faster than: an
INSERT reads all shards and checks nothing, in a database that may read files. Core-seconds are those of all threads:
seconds depend on how many cores are idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
from _common import Variant, arguments, folder, in_turn, machine, ratio, ratios, table, timed, with_processor
from store import SESSION, all_cells, images, predictions

from bandlens.analysis.database.open import open_store
from bandlens.app.imported import LabelledFiles
from bandlens.app.study.shards import Committer
from bandlens.core.records import Cell, Finished
from bandlens.engine.distributed.shards import Folder, Shard, open_folder, write_shard

CHECKPOINTS, RANGE = 48, 752
WAYS = {"one by one": (False, 0.0), "together": (False, 5.0), "later": (True, 5.0)}
ALONE = """
INSERT INTO prediction SELECT cell.id, image_index, predicted, label_rank, confidence, best_rank
FROM read_parquet(?) AS shard JOIN cell ON cell.key = shard.cell
"""


def write(place: Folder, image_set: LabelledFiles, cells: list[Cell], size: int) -> list[Shard]:
    """Write a shard of all cells for each `size` images."""
    random, sessions = np.random.default_rng(1), dict.fromkeys((cell.variant for cell in cells), SESSION)
    return [
        write_shard(
            place,
            str(first),
            [Finished(cell, first, predictions(random, image_set.labels[first : first + size]), 1.0) for cell in cells],
            sessions,
        )
        for first in range(0, image_set.info.count, size)
    ]


def band_cells(image_set: LabelledFiles) -> list[Cell]:
    """The cells of the critical band of all checkpoints."""
    cells = (cell for checkpoint_cells in all_cells(image_set.info, CHECKPOINTS) for cell in checkpoint_cells)
    return [cell for cell in cells if cell.condition.probe == "critical_band"]


def main() -> None:
    options = arguments(__doc__, repeats=3, quick=1, shards=(8, "shards of a million predictions"))
    size = 16 if options.quick else RANGE
    image_set = images(size * options.shards)
    cells = band_cells(image_set)
    machine("duckdb", "numpy", "pyarrow")
    cores: dict[str, list[float]] = {name: [] for name in (*WAYS, "DuckDB alone")}
    with folder(options.keep) as scratch:
        place = open_folder(str(scratch / "commits.shards"))
        shards = write(place, image_set, cells, size)

        database: Path = scratch / "commits.duckdb"

        def measured(name: str, work: Callable[[], object]) -> float:
            return with_processor(timed(work), cores[name])()

        def way(name: str) -> Variant:
            def seconds() -> float:
                database.unlink(missing_ok=True)
                later, every = WAYS[name]
                with open_store(database) as store:
                    store.add_cells(cells, [image_set])
                    by_key = {cell.key: cell for cell in cells}
                    committer = Committer(store, place, by_key, str, {}, later, every, due=time.monotonic() + every)

                    def commit() -> None:
                        for shard in shards:
                            committer.add(shard)
                        committer.flush()

                    return measured(name, commit)

            return seconds

        def alone() -> float:
            database.unlink(missing_ok=True)
            with open_store(database) as store:
                store.add_cells(cells, [image_set])
            files = [place.path_of(f"{shard.key}.parquet") for shard in shards]
            with duckdb.connect(str(database)) as connection:
                return measured("DuckDB alone", lambda: connection.execute(ALONE, [files]))

        variants = {name: way(name) for name in WAYS} | {"DuckDB alone": alone}
        timings = in_turn(variants, options.repeats, warm_up=False)
    count = len(cells) * image_set.info.count / 1e6
    print(f"{count:.1f} M predictions in {len(shards)} shards")
    rows = [[name, [count / s for s in values], [s / count for s in cores[name]]] for name, values in timings.items()]
    table(["commits", "M predictions/s", "core-seconds a million"], rows)
    ratio("together over one by one, rate", ratios(timings["one by one"], timings["together"]), "none")
    ratio("later over one by one, rate", ratios(timings["one by one"], timings["later"]), ">= 4")
    ratio("DuckDB alone over one by one, core-seconds", ratios(cores["DuckDB alone"], cores["one by one"]), "none")


if __name__ == "__main__":
    main()
