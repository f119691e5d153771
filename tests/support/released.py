"""A small database of each released schema version: `python -P tests/support/released.py`.

It writes VERSION.duckdb.xz and the rows of all views, VERSION.json, with the version of the code that runs it. Files of
earlier versions stay as they are: nothing can make them again.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))  # for a run without pytest

from made_up_results import SESSION, cell, condition, image_set, model, part, store_study, store_trials, trials_of

from bandlens.analysis.comparison.gates import Limits
from bandlens.analysis.comparison.precision_gate import gate_precision
from bandlens.analysis.database.catalogue import SCHEMA_VERSION
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.core.records import Failed, Finished

FOLDER = Path(__file__).parents[1] / "unit/analysis/database/released"
VIEWS = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND database_name <> 'temp' ORDER BY 1"

CONDITIONS = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.3))]
SITES = image_set(
    24,
    name="sites",
    labels=np.arange(24) % 10,
    clusters=np.arange(24) // 3,
    schemes={"real": [[0, 1], [], [2], [3, 4, 5]] * 6},
)
PHOTOGRAPHS = image_set(40, name="photographs", labels=np.arange(40) % 10)
UNLABELLED = image_set(20, name="unlabelled", clusters=np.arange(20) // 2)
STIMULI = image_set(
    30,
    name="contrast",
    benchmark="contrast",
    labels=[1] * 30,
    decision_space="sixteen",
    clusters=np.arange(30) // 2,
    paths=[f"0_con_dnn_c{30 + 20 * (k // 2 % 2)}_bear_0_n0_{k}.png" for k in range(30)],
)


def outcome(images: Any, setting: Any, name: str, count: int | None = None, **kinds: str) -> Finished:
    """Predictions of the first images; half of them are those of the label, if there is one."""
    work = cell(images, setting, by=model(name), **kinds)
    random = np.random.default_rng(int(work.key[:8], 16))
    predicted = random.integers(0, 10, images.info.count)
    if images.labels is None:
        return part(work, predicted[:count])
    predicted = np.where(random.random(len(predicted)) < 0.5, images.labels, predicted)[:count]
    return part(work, predicted, (predicted != images.labels[:count]) * random.integers(1, 9, len(predicted)))


def fill(store: Store) -> None:
    names = ("one", "two")
    parts = [outcome(SITES, setting, name) for name in names for setting in CONDITIONS]
    parts += [outcome(PHOTOGRAPHS, setting, "one") for setting in CONDITIONS]
    parts += [outcome(UNLABELLED, setting, "one") for setting in CONDITIONS]
    parts += [outcome(STIMULI, CONDITIONS[0], name) for name in names]
    # The clean images of the second model are not there: its agreement with them is not known.
    parts.append(outcome(UNLABELLED, CONDITIONS[1], "two"))
    label = store_study(store, "first", [SITES, PHOTOGRAPHS, UNLABELLED, STIMULI], parts)
    persons = [
        trials_of(
            "contrast",
            (["c30"] * 2 + ["c50"] * 2) * 7 + ["c30"] * 2,
            f"subject-0{k}",
            np.random.default_rng(k).random(30) < 0.6,
        )
        for k in (1, 2)
    ]
    store_trials(store, *persons)
    broken = [outcome(PHOTOGRAPHS, setting, "two", 7) for setting in CONDITIONS]
    cells = [outcome.cell for outcome in broken]
    store.begin_study("broken off", 'name = "broken off"', cells, [PHOTOGRAPHS])
    sessions = {cell.variant: SESSION for cell in cells}
    store.commit([*broken[:2], Failed(cells[2], "the session ended")], sessions)
    pair = [outcome(PHOTOGRAPHS, CONDITIONS[0], "one", precision=precision) for precision in ("fp32", "int8")]
    store.add_cells([outcome.cell for outcome in pair], [PHOTOGRAPHS])
    store.commit(pair[1:], {pair[1].cell.variant: SESSION})
    gate_precision(store, "int8 against fp32", [(pair[0].cell, pair[1].cell)], Limits())
    compute_measures(store, label)
    store.execute(
        "INSERT INTO published_value (source, model, benchmark, metric, condition, value, unit) "
        "VALUES ('source', 'model', '', 'top1', '', 1, '')"
    )


def rows_of_views(store: Store) -> dict[str, dict[str, list[Any]]]:
    """View -> column -> the values of its rows, sorted, times in UTC, as JSON has them."""
    frames = {name: store.frame(f"FROM {name} ORDER BY ALL") for (name,) in store.execute(VIEWS)}
    utc = pl.col(pl.Datetime("us", "*")).dt.convert_time_zone("UTC")
    rows = {name: frame.with_columns(utc).to_dict(as_series=False) for name, frame in frames.items()}
    return json.loads(json.dumps(rows, default=str))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        path, copy = Path(folder, "results.duckdb"), Path(folder, "copy.duckdb")
        with open_store(path) as store:
            fill(store)
        merge([path], copy)  # without the room of what was replaced
        with open_store(copy, read_only=True) as store:
            rows = rows_of_views(store)
        (FOLDER / f"{SCHEMA_VERSION}.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")
        content = lzma.compress(copy.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
        (FOLDER / f"{SCHEMA_VERSION}.duckdb.xz").write_bytes(content)


if __name__ == "__main__":
    main()
