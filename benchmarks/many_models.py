"""A thousand checkpoints by the grid in one database: opening it, reading it, running what is there, reporting it.

Predictions are made up, a few cells' worth of them in turn: what is timed does not depend on their values. The study in
full has 50,000 images, which makes 2.6 G predictions and a file of 19 GB; fewer images, as by default, leave as many
cells and models, and as many parts of as many images each. Models are descriptions alone, and images have 128 pixels a
side: a run that finds nothing to do opens neither. Whatever can be repeated is, and commands are whole processes.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from _common import arguments, folder, in_turn, machine, ratio, ratios, spread, table, timed
from cli import models, process
from store import opening, predictions

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.probes.images.options import Contents
from bandlens.probes.images.pack import pack_arrays
from bandlens.records import Crop, Finished, SessionInfo

SIZE, CLASSES = 128, 1000
RANGE = 2_500
"""Images of a part."""
KINDS = 7
"""The number of different predictions among cells."""


def study(folder: Path, checkpoints: int, images: int) -> Path:
    """A study of that many checkpoints and images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, images).tolist()
    pictures = ((f"{k}.png", random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for k in range(images))
    pack_arrays(
        pictures, folder / "images.set", crop=Crop(SIZE, SIZE), labels=labels, contents=Contents(clusters="none")
    )
    models(folder / "models", checkpoints, SIZE)
    file = folder / "many.toml"
    file.write_text(
        'name = "many"\ncheckpoints = ["*"]\nmodels = "models"\nimages = ["images.set"]\nengine = "onnxruntime"\n'
    )
    return file


def fill(work: Work, database: Path) -> float:
    """Store made-up predictions of every cell; gives seconds."""
    images, random = work.image_sets[0], np.random.default_rng(1)
    assert images.labels is not None
    made = {
        first: [predictions(random, images.labels[first : first + RANGE]) for _ in range(KINDS)]
        for first in range(0, images.info.count, RANGE)
    }
    kinds = itertools.cycle(range(KINDS))
    session = SessionInfo("made up", 32, 2, "{}")
    with open_store(database) as store:
        store.begin_study(work.study.name, work.study.toml, work.cells, work.image_sets)
        # These stand for ReaL's labels: accuracy by them is read from predictions, and by single labels from sums.
        store.execute("INSERT INTO label SELECT image_set, 'real', image_index, class FROM label")

        def commit() -> None:
            for first, several in made.items():
                for cells in (work.cells[k : k + 1000] for k in range(0, len(work.cells), 1000)):
                    parts = [Finished(cell, first, several[next(kinds)], 1.0) for cell in cells]
                    store.commit(parts, dict.fromkeys((cell.variant for cell in cells), session))

        return timed(commit)()


def main() -> None:
    options = arguments(
        __doc__, repeats=5, quick=1, checkpoints=(1_000, "checkpoints"), images=(5_000, "images, of 50,000 in full")
    )
    checkpoints, images = (20, 500) if options.quick else (options.checkpoints, options.images)
    bandlens = str(Path(sys.executable).with_name("bandlens"))
    machine("duckdb", "polars", "pyarrow")
    with folder(options.keep) as scratch:
        file, database, report = (scratch / name for name in ("many.toml", "many.duckdb", "many.html"))
        if not database.exists():
            work = resolve(Study.read(study(scratch, checkpoints, images)))
            seconds = fill(work, database)
            count = len(work.cells) * images
            print(f"{len(work.cells):,} cells, {count:,} predictions, stored in {seconds:.0f} s\n")
        with open_store(database, read_only=True) as store:
            labelled = "SELECT * FROM label_accuracy WHERE checkpoint = 'model7' AND probe = 'lowpass'"
            queries = {
                "accuracy of all cells": ("FROM accuracy", "<= 2"),
                "label_accuracy of a checkpoint and probe": (labelled, "-"),
                "label_accuracy of all cells": ("FROM label_accuracy", "-"),
            }
            timings = in_turn(
                {name: timed(lambda sql=sql: store.frame(sql)) for name, (sql, _) in queries.items()}, options.repeats
            )
        goals = {name: goal for name, (_, goal) in queries.items()}
        timings |= in_turn({"opening": timed(lambda: opening(database))}, options.repeats)
        words = {
            "run, nothing to do": (["run", str(file), "--db", str(database)], "nothing to run", "<= 3"),
            "plan, nothing to do": (["plan", str(file), "--db", str(database)], "nothing to run", "-"),
            "report, without metrics": (["report", "--db", str(database), "--out", str(report)], " MB", "-"),
        }
        timings |= in_turn(
            {name: process(bandlens, *command, says=says) for name, (command, says, _) in words.items()},
            options.repeats,
        )
        goals |= {"opening": "<= 1"} | {name: goal for name, (_, _, goal) in words.items()}
        print(f"database: {database.stat().st_size / 1e9:.2f} GB; report: {report.stat().st_size / 1e6:.1f} MB")
        table(["what", "s", "goal, s"], [[name, spread(values), goals[name]] for name, values in timings.items()])
    few, whole = (timings[f"label_accuracy of {what}"] for what in ("a checkpoint and probe", "all cells"))
    ratio("label_accuracy of a checkpoint and probe over all cells, time", ratios(few, whole), "< 1")


if __name__ == "__main__":
    main()
