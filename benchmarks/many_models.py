"""A thousand checkpoints by the grid in one database: analyzing it, reporting it, reading it, running what is there.

Predictions are made up, with structure: a model has a skill and a channel, an image is as hard for all models, and a
filter or a noise costs what a logistic says. So errors are consistent, and fits end as they do on measured predictions.
The study in full has 50,000 images, which makes 2.6 G predictions and a file of 19 GB; fewer images, as by default,
leave as many cells and models. Models are descriptions alone, and images have 128 pixels a side: a run that finds
nothing to do opens neither. Commands are whole processes; `analyze` takes minutes, and runs once. Beside seconds stand
the seconds of processor time, which say the same on a busy machine, and the most memory that was resident.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from _common import BANDLENS, Usage, arguments, folder, in_turn, machine, ratio, ratios, run_program, table, timed
from cli import models
from numpy.typing import NDArray
from store import opening

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.core.records import Condition, Crop, Finished, Predictions, SessionInfo
from bandlens.probes.images.pack import pack_arrays
from bandlens.probes.images.pack_options import Contents

SIZE, CLASSES = 128, 1000
STRONGEST = 0.16
"""Standard deviation of the strongest noise."""


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


def draw_costs(random: np.random.Generator, conditions: Sequence[Condition]) -> NDArray[np.float64]:
    """(conditions,) by how much each condition lowers the log-odds of a right answer of one model."""
    peak, height, width = random.normal(2.8, 0.6), random.uniform(1, 3.5), random.uniform(0.8, 2)
    low, high = random.uniform(2, 8, 2)
    losses = []
    for condition in conditions:
        cutoff, sd, octave = (condition.number(name) or 0.0 for name in ("cutoff", "noise_sd", "frequency"))
        bell = height * np.exp(-((octave - peak) ** 2) / (2 * width**2))
        losses.append(
            {
                "clean": 0.0,
                "lowpass": low * (1 - cutoff) ** 3,
                "highpass": high * (1 - cutoff),
                "critical_band": 1.0 + (np.logaddexp(0, 2 * (np.log2(sd / STRONGEST) + bell)) if sd else 0.0),
            }[condition.probe]
        )
    return np.array(losses)


def draw_answers(work: Work) -> Iterator[list[Finished]]:
    """Yield the parts of each model, all images of every cell."""
    random, labels = np.random.default_rng(1), work.image_sets[0].labels
    assert labels is not None
    hardness = random.logistic(size=len(labels))
    by_model: dict[str, list[int]] = {}
    for k, cell in enumerate(work.cells):
        by_model.setdefault(cell.variant.model.name, []).append(k)
    for places in by_model.values():
        cells = [work.cells[k] for k in places]
        skill = random.normal(1.5, 0.7) - draw_costs(random, [cell.condition for cell in cells])
        noise = random.logistic(size=(len(cells), len(labels))) / 2
        hits = skill[:, None] > hardness + noise
        # Ranks of wrong predictions spread over orders of magnitude, as they do in networks.
        ranks = np.where(hits, 0, np.exp(random.random(hits.shape) * np.log(CLASSES))).astype(np.uint16)
        predicted = np.where(hits, labels, (labels + ranks) % CLASSES).astype(np.uint16)
        confidence = (random.random(hits.shape) ** np.where(hits, 0.3, 1)).astype(np.float32)
        yield [
            Finished(cell, 0, Predictions(*columns), 1.0)
            for cell, *columns in zip(cells, predicted, ranks, confidence, strict=True)
        ]


def fill(folder: Path, database: Path, checkpoints: int, images: int) -> str:
    """Make the study and store predictions of every cell; gives a line on it."""
    work = resolve(Study.read(study(folder, checkpoints, images)))
    session = SessionInfo("made up", 32, 2, "{}")
    with open_store(database) as store:
        store.begin_study(work.study.name, work.study.toml, work.cells, work.image_sets)
        # These stand for ReaL's labels: accuracy by them is read from predictions, and by single labels from sums.
        store.execute("INSERT INTO label SELECT image_set, 'real', image_index, class FROM label")

        def commit() -> None:
            for parts in draw_answers(work):
                store.commit(parts, {part.cell.variant: session for part in parts})

        seconds = timed(commit)()
    return f"{len(work.cells):,} cells, {len(work.cells) * images:,} predictions, stored in {seconds:.0f} s"


def main() -> None:
    options = arguments(
        __doc__, repeats=5, quick=1, checkpoints=(1_000, "checkpoints"), images=(1_000, "images, of 50,000 in full")
    )
    checkpoints, images = (20, 500) if options.quick else (options.checkpoints, options.images)
    machine("duckdb", "polars", "pyarrow")
    with folder(options.keep) as scratch:
        file, database, report = (scratch / name for name in ("many.toml", "many.duckdb", "many.html"))
        if not database.exists():
            # A command that this process starts counts its memory, so that another process fills the database.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                print(pool.submit(fill, scratch, database, checkpoints, images).result(), end="\n\n")
        db = ("--db", str(database))
        commands = {
            "analyze": (["analyze", "--format", "json", *db], "spectral_bias", "180 s", 1),
            "consistency": (["consistency", "images.set", "--format", "json", *db], "kappa", "-", 1),
            "verify": (["verify", *db], "labels", "1,000 MB", 1),
            "run, nothing to do": (["run", str(file), "--no-analyze", *db], "nothing to run", "2.5 s", options.repeats),
            "plan, nothing to do": (["plan", str(file), *db], "nothing to run", "-", options.repeats),
            "report": (["report", *db, "--out", str(report)], " MB", "10 s", options.repeats),
        }
        usages = {
            name: [run_program(BANDLENS, *command, says=says)[1] for _ in range(repeats)]
            for name, (command, says, _, repeats) in commands.items()
        }
        with open_store(database, read_only=True) as store:
            labelled = "SELECT * FROM label_accuracy WHERE checkpoint = 'model7' AND probe = 'lowpass'"
            queries = {
                "accuracy of all cells": "FROM accuracy",
                "label_accuracy of a checkpoint and probe": labelled,
                "label_accuracy of all cells": "FROM label_accuracy",
            }
            timings = in_turn(
                {name: timed(lambda sql=sql: store.frame(sql)) for name, sql in queries.items()}, options.repeats
            )
        timings |= in_turn({"opening": timed(lambda: opening(database))}, options.repeats)
        print(f"database: {database.stat().st_size / 1e9:.2f} GB; report: {report.stat().st_size / 1e6:.1f} MB")
    table(
        ["command", "s", "processor, s", "MB", "goal"],
        [
            [name, *([getattr(run, field) for run in runs] for field in Usage.__slots__), commands[name][2]]
            for name, runs in usages.items()
        ],
    )
    table(["query", "s"], timings.items())
    part_times, total_times = (timings[f"label_accuracy of {name}"] for name in ("a checkpoint and probe", "all cells"))
    ratio("label_accuracy of a checkpoint and probe over all cells, time", ratios(part_times, total_times), "< 1")
    seconds_of = {name: [run.seconds for run in runs] for name, runs in usages.items()}
    ratio("analyze over its goal of 180 s, time", [seconds / 180 for seconds in seconds_of["analyze"]], "<= 1")


if __name__ == "__main__":
    main()
