"""The rate of a study on a Ray cluster of this machine, with one worker and with two, against a run in one process.

`direct`: run and commit in this process, one thread. `direct, twice`: two such processes, which each do the whole study
and know nothing of each other: what two of the cores can give at the time. `tasks`: the same as direct in tasks that
leave shards (--shards). `ray, 1` and `ray, 2`: one and two workers of one thread. Each is timed from the moment its
sessions are open to the last commit; what comes before that is reported apart. The cluster is started once, and the
variants take turns. A task is an eighth of what a worker does here, so this is harder on executors than tasks of a
minute in a run of hours. ResNet-50 has random weights.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from _common import (
    MODEL,
    Variant,
    arguments,
    folder,
    image_set,
    in_turn,
    machine,
    ratio,
    ratios,
    resnet50,
    spread,
    table,
)

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.record import record_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.run import run_whole
from bandlens.app.study.shards import Committer, Sharded, run_in_shards
from bandlens.engine.distributed.cluster import RayOptions, import_ray
from bandlens.engine.distributed.shards import open_folder, write_shard
from bandlens.records import Cell, Condition, Finished, Predictions, SessionInfo

BATCH = 8
STUDY = """
name = "executors"
checkpoints = ["{model}"]
models = "models"
images = ["{count}.set"]
engine = "onnxruntime"
batch = {batch}
threads = 1
[probes]
critical_band = {{ noise_sd = 0.16, grey = false }}
"""
TWICE = "direct, twice"
NAMES = ("direct", TWICE, "tasks", "ray, 1", "ray, 2")


@dataclass
class Timer:
    """Seconds of each run before its sessions were open, and of the work."""

    work: Work
    study: Path
    scratch: Path
    opening: dict[str, list[float]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def variant(self, name: str) -> Variant:
        def seconds() -> float:
            if name == TWICE:
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    spans = pool.starmap(
                        direct, [(self.study, self.scratch / f"{next(self.numbers)}.duckdb") for _ in "ab"]
                    )
                self.opening.setdefault(name, []).append(0.0)
                return statistics.mean(spans) / 2
            place = self.scratch / f"{next(self.numbers)}"
            begun: list[float] = []
            started = time.perf_counter()
            with open_store(place.with_suffix(".duckdb")) as store:

                def begin() -> str:
                    begun.append(time.perf_counter())
                    return record_study(self.work, store)

                self.how(name, place)(self.work, store, begin)
            self.opening.setdefault(name, []).append(begun[0] - started)
            return time.perf_counter() - begun[0]

        return seconds

    def how(self, name: str, place: Path) -> Callable[..., object]:
        shards = str(place.with_suffix(".shards"))
        if name == "direct":
            return lambda work, store, begin: run_whole(work, store, begin, {}, 60)
        ray_options = RayOptions(workers=int(name[-1])) if name.startswith("ray") else None
        return lambda work, store, begin: run_in_shards(work, store, begin, {}, Sharded(shards, ray_options))


def direct(file: Path, database: Path) -> float:
    """Seconds of the work of a run in this process."""
    work, begun = resolve(Study.read(file)), []
    with open_store(database) as store:

        def begin() -> str:
            begun.append(time.perf_counter())
            return record_study(work, store)

        run_whole(work, store, begin, {}, 60)
    return time.perf_counter() - begun[0]


def of_a_unit(work: Work, scratch: Path, cells: int, images: int) -> dict[str, float]:
    """Seconds to write a shard of random rows, and to read and commit it; its bytes a prediction."""
    random = np.random.default_rng(0)
    model, info = work.cells[0].variant, replace(work.cells[0].image_set, digest="made up", count=images)
    conditions = [Condition("made up", (("number", k),), f"made up {k}") for k in range(cells)]
    made = [Cell(model, info, condition, 0) for condition in conditions]
    # Predictions are mostly right and sure, as those of a ResNet-50 are: noise would not compress.
    ranks = np.minimum(random.geometric(0.6, (cells, images)) - 1, 999).astype(np.uint16)
    predicted = random.integers(0, 1000, (cells, images)).astype(np.uint16)
    confidence = random.beta(2, 1, (cells, images)).astype(np.float32)
    parts = [
        Finished(cell, 0, Predictions(*rows), 1.0)
        for cell, *rows in zip(made, predicted, ranks, confidence, strict=True)
    ]
    made_up = replace(
        work.image_sets[0], info=info, paths=[""] * images, labels=None, clusters=np.zeros(images, np.int32)
    )
    place, started = open_folder(str(scratch / "task.shards")), time.perf_counter()
    shard = write_shard(place, "task", parts, {model: SessionInfo("a machine", 1, 1, "{}")})
    seconds = {"write": time.perf_counter() - started, "bytes": shard.bytes / ranks.size}
    with open_store(scratch / f"task{time.time_ns()}.duckdb") as store:
        store.add_cells(made, [made_up])
        started = time.perf_counter()
        committer = Committer(store, place, {cell.key: cell for cell in made}, str, {})
        committer.add([shard])
    return seconds | {"commit": time.perf_counter() - started}


def main() -> None:
    options = arguments(__doc__, repeats=3, quick=1, images=(96, "images, a multiple of 8"))
    count = 2 * BATCH if options.quick else options.images
    ray = import_ray()
    with folder(options.keep) as prepared, tempfile.TemporaryDirectory() as scratch:
        resnet50(prepared / "models")
        image_set(prepared / f"{count}.set", count)
        file = prepared / "executors.toml"
        file.write_text(STUDY.format(model=MODEL, count=count, batch=BATCH))
        work = resolve(Study.read(file))
        started = time.perf_counter()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        cluster = time.perf_counter() - started
        timer = Timer(work, file, Path(scratch))
        seconds = in_turn({name: timer.variant(name) for name in NAMES}, options.repeats, warm_up=False)
        machine("numpy", "onnxruntime", "ray", "duckdb")
        ray.shutdown()
        size = (1392, 64) if options.quick else (1392, 752)  # 29 conditions of 48 checkpoints
        tasks = [of_a_unit(work, Path(scratch), *size) for _ in range(options.repeats)]
    predictions = len(work.cells) * count
    rows = [
        [
            name,
            f"{statistics.median(predictions / s for s in values):.1f}",
            spread(values),
            spread(timer.opening[name]),
        ]
        for name, values in seconds.items()
    ]
    print(f"{len(work.cells)} cells, {predictions:,} predictions; a cluster starts in {cluster:.1f} s")
    table(["executor", "images/s", "seconds", "seconds to open"], rows)
    writing, committing = ([task[step] for task in tasks] for step in ("write", "commit"))
    print(
        f"a task of {size[0] * size[1]:,} predictions: {spread(writing)} s to write, {spread(committing)} s to read "
        f"and commit, {tasks[0]['bytes']:.2f} bytes a prediction\n"
    )
    ratio("tasks over direct", ratios(seconds["direct"], seconds["tasks"]), ">= 0.95")
    ratio("Ray with one worker over direct", ratios(seconds["direct"], seconds["ray, 1"]), ">= 0.95")
    ratio("Ray with two workers over one", ratios(seconds["ray, 1"], seconds["ray, 2"]), ">= 1.8 on two idle cores")
    ratio("Ray with two workers over two processes", ratios(seconds[TWICE], seconds["ray, 2"]), ">= 0.9")


if __name__ == "__main__":
    main()
