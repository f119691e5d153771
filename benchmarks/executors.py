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
from dataclasses import dataclass, field
from pathlib import Path

import _common as common
import numpy as np
from _common import MODEL, Variant
from commits import RANGE, band_cells
from store import SESSION, images, predictions

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.record import record_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.run import run_whole
from bandlens.app.study.shards import Committer, Sharded, run_in_shards
from bandlens.core.records import Finished
from bandlens.engine.distributed.cluster import RayOptions, import_ray
from bandlens.engine.distributed.shards import open_folder, write_shard

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
            places = [self.scratch / f"{next(self.numbers)}" for _ in range(2 if name == TWICE else 1)]
            if name == TWICE:
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    spans = pool.starmap(direct, [(self.study, place) for place in places])
                opening, taken = 0.0, statistics.mean(spans) / 2
            else:
                opening, taken = run_seconds(self.work, places[0], name)
            self.opening.setdefault(name, []).append(opening)
            return taken

        return seconds


def direct(file: Path, place: Path) -> float:
    """Seconds of the work of a run in this process."""
    return run_seconds(resolve(Study.read(file)), place, "direct")[1]


def run_seconds(work: Work, place: Path, name: str) -> tuple[float, float]:
    """Seconds of a variant's run until its sessions are open, and of its work."""
    begun: list[float] = []
    started = time.perf_counter()
    with open_store(place.with_suffix(".duckdb")) as store:

        def begin() -> str:
            begun.append(time.perf_counter())
            return record_study(work, store)

        if name == "direct":
            run_whole(work, store, begin, {}, 60)
        else:
            on_ray = RayOptions(workers=int(name[-1])) if name.startswith("ray") else None
            run_in_shards(work, store, begin, {}, Sharded(str(place.with_suffix(".shards")), on_ray))
    return begun[0] - started, time.perf_counter() - begun[0]


def measure_task(scratch: Path, count: int) -> dict[str, float]:
    """Seconds to write a shard of made-up rows, and to read and commit it; its bytes a prediction."""
    image_set, random = images(count), np.random.default_rng(0)
    cells = band_cells(image_set)
    parts = [Finished(cell, 0, predictions(random, image_set.labels), 1.0) for cell in cells]
    place, started = open_folder(str(scratch / "task.shards")), time.perf_counter()
    shard = write_shard(place, "task", parts, dict.fromkeys((cell.variant for cell in cells), SESSION))
    seconds = {"write": time.perf_counter() - started, "bytes": shard.bytes / (len(cells) * count)}
    with open_store(scratch / f"task{time.time_ns()}.duckdb") as store:
        store.add_cells(cells, [image_set])
        started = time.perf_counter()
        Committer(store, place, {cell.key: cell for cell in cells}, str, {}).add(shard)
    return seconds | {"commit": time.perf_counter() - started, "predictions": len(cells) * count}


def main() -> None:
    options = common.arguments(__doc__, repeats=3, quick=1, images=(96, "images, a multiple of 8"))
    count = 2 * BATCH if options.quick else options.images
    ray = import_ray()
    with common.folder(options.keep) as prepared, tempfile.TemporaryDirectory() as scratch:
        common.resnet50(prepared / "models")
        common.image_set(prepared / f"{count}.set", count)
        file = prepared / "executors.toml"
        file.write_text(STUDY.format(model=MODEL, count=count, batch=BATCH))
        work = resolve(Study.read(file))
        started = time.perf_counter()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        cluster = time.perf_counter() - started
        timer = Timer(work, file, Path(scratch))
        seconds = common.in_turn({name: timer.variant(name) for name in NAMES}, options.repeats, warm_up=False)
        common.machine("numpy", "onnxruntime", "ray", "duckdb")
        ray.shutdown()
        tasks = [measure_task(Path(scratch), 64 if options.quick else RANGE) for _ in range(options.repeats)]
    total = len(work.cells) * count
    rows = [
        [name, f"{statistics.median(total / s for s in values):.1f}", values, timer.opening[name]]
        for name, values in seconds.items()
    ]
    print(f"{len(work.cells)} cells, {total:,} predictions; a cluster starts in {cluster:.1f} s")
    common.table(["executor", "images/s", "seconds", "seconds to open"], rows)
    writing, committing = (common.spread([task[step] for task in tasks]) for step in ("write", "commit"))
    print(
        f"a task of {tasks[0]['predictions']:,} predictions: {writing} s to write, {committing} s to read and commit, "
        f"{tasks[0]['bytes']:.2f} bytes a prediction\n"
    )
    common.ratio("tasks over direct", common.ratios(seconds["direct"], seconds["tasks"]), ">= 0.95")
    common.ratio("Ray with one worker over direct", common.ratios(seconds["direct"], seconds["ray, 1"]), ">= 0.95")
    common.ratio(
        "Ray with two workers over one", common.ratios(seconds["ray, 1"], seconds["ray, 2"]), ">= 1.8 on two idle cores"
    )
    common.ratio("Ray with two workers over two processes", common.ratios(seconds[TWICE], seconds["ray, 2"]), ">= 0.9")


if __name__ == "__main__":
    main()
