"""Whole processes: `bandlens --help`, a run that finds nothing to do, and a query, in turn with `python -c pass`.

The database of the run holds every cell of the study: 52 conditions of one checkpoint, and of 48. What such a run
reads of a model is its description, so the models are only that.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from _common import BANDLENS, arguments, folder, image_set, in_turn, machine, process, ratio, ratios, table

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.core.records import Finished, Model, Predictions, SessionInfo, digest_of
from bandlens.export.model_files import save_model

IMAGES, CLASSES = 64, 1000


def models(folder: Path, count: int, size: int = 224) -> None:
    folder.mkdir()
    for k in range(count):
        name = f"model{k}"
        model = Model(
            name, "own", "resnet50", "0", "file", "none", folder / f"{name}.onnx", digest_of(count, k), size, CLASSES
        )
        save_model(model, b"never opened", {})


def finished_study(folder: Path, images: Path, count: int) -> list[str]:
    """Arguments of a run over `count` checkpoints whose every cell is in the database."""
    models(folder / f"models{count}", count)
    file, database = folder / f"study{count}.toml", folder / f"study{count}.duckdb"
    file.write_text(f'checkpoints = ["*"]\nmodels = "models{count}"\nimages = ["{images.name}"]\n', encoding="utf-8")
    work = resolve(Study.read(file))
    random = np.random.default_rng(0)
    info = SessionInfo("none", 32, 2, "{}")
    with open_store(database) as store:
        store.begin_study(work.study.name, work.study.toml, work.cells, work.image_sets)
        parts = [
            Finished(
                cell,
                0,
                Predictions(
                    random.integers(0, CLASSES, IMAGES, np.uint16),
                    random.integers(0, CLASSES, IMAGES, np.uint16),
                    random.random(IMAGES, np.float32),
                ),
                1.0,
            )
            for cell in work.cells
        ]
        store.commit(parts, {cell.variant: info for cell in work.cells})
    return ["run", str(file), "--no-analyze", "--db", str(database)]


def main() -> None:
    options = arguments(__doc__, repeats=15, quick=1)
    with folder(None) as scratch:
        images = image_set(scratch / "images.set", IMAGES)
        words_of_1, words_of_48 = (finished_study(scratch, images, count) for count in (1, 48))
        machine("typer", "duckdb", "polars")
        seconds = in_turn(
            {
                "python -c pass": process(sys.executable, "-c", "pass"),
                "bandlens --help": process(BANDLENS, "--help", says="checkpoints"),
                "nothing to run, 1 checkpoint": process(BANDLENS, *words_of_1, says="nothing to run"),
                "nothing to run, 48 checkpoints": process(BANDLENS, *words_of_48, says="nothing to run"),
                "sql SELECT 1": process(BANDLENS, "sql", "SELECT 1", *words_of_1[-2:], says="1 row"),
            },
            options.repeats,
        )
    goals = {"bandlens --help": "0.35", "nothing to run, 1 checkpoint": "1.5", "nothing to run, 48 checkpoints": "1.5"}
    bare = seconds["python -c pass"]
    table(
        ["process", "s", "goal, s", "times python -c pass"],
        [
            [name, values, f"<= {goals[name]}" if name in goals else "-", ratios(values, bare)]
            for name, values in seconds.items()
        ],
    )
    ratio("bandlens --help over python -c pass", ratios(seconds["bandlens --help"], bare), "none (0.35 s)")


if __name__ == "__main__":
    main()
