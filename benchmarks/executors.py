"""The rate of a study on workers, one and two, against a run in one process.

`direct`: run and commit in this process, one thread. `direct, twice`: two such processes, which each do the whole study
and know nothing of each other: what two of the cores can give at the time. `devices, 1` and `devices, 2`: one and two
processes of `--devices`; `ray, 1` and `ray, 2`: one and two actors, each of one thread. Each is timed from the moment
its first worker is open to the last commit; what comes before that is reported apart. Clusters are started for each,
and the variants take turns. ResNet-50 has random weights.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import _common as common
from _common import MODEL, Variant

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.record import RunRecord, record_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.run import RANGE_SECONDS, run_here
from bandlens.app.study.workers import Workers, run_on_workers
from bandlens.engine.cluster import import_ray

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
NAMES = ("direct", TWICE, "devices, 1", "devices, 2", "ray, 1", "ray, 2")


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
            places = [self.scratch / f"{next(self.numbers)}.duckdb" for _ in range(2 if name == TWICE else 1)]
            if name == TWICE:
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    spans = pool.starmap(direct, [(self.study, place) for place in places])
                opening, taken = 0.0, statistics.mean(spans) / 2
            else:
                with ray_of(int(name[-1])) if name.startswith("ray") else nullcontext():
                    opening, taken = run_seconds(self.work, places[0], name)
            self.opening.setdefault(name, []).append(opening)
            return taken

        return seconds


@contextmanager
def ray_of(processors: int) -> Iterator[None]:
    """A cluster of so many processors, to which this process is connected."""
    ray = import_ray()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=processors, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def direct(file: Path, place: Path) -> float:
    """Seconds of the work of a run in this process."""
    return run_seconds(resolve(Study.read(file)), place, "direct")[1]


def run_seconds(work: Work, place: Path, name: str) -> tuple[float, float]:
    """Seconds of a variant's run until its sessions are open, and of its work."""
    begun: list[float] = []
    started = time.perf_counter()
    with open_store(place) as store:

        def begin() -> str:
            begun.append(time.perf_counter())
            return record_study(work, store)

        record = RunRecord(work.cells, store, begin, {})
        if name == "direct":
            run_here(work, record)
        else:
            devices = ("cpu",) * int(name[-1]) if name.startswith("devices") else ()
            run_on_workers(work, record, Workers(devices), RANGE_SECONDS)
    return begun[0] - started, time.perf_counter() - begun[0]


def main() -> None:
    options = common.arguments(__doc__, repeats=3, quick=1, images=(96, "images, a multiple of 8"))
    count = 2 * BATCH if options.quick else options.images
    with common.folder(options.keep) as prepared, tempfile.TemporaryDirectory() as scratch:
        common.resnet50(prepared / "models")
        common.image_set(prepared / f"{count}.set", count)
        file = prepared / "executors.toml"
        file.write_text(STUDY.format(model=MODEL, count=count, batch=BATCH))
        work = resolve(Study.read(file))
        timer = Timer(work, file, Path(scratch))
        seconds = common.in_turn({name: timer.variant(name) for name in NAMES}, options.repeats, warm_up=False)
        common.machine("numpy", "onnxruntime", "ray", "duckdb")
    total = len(work.cells) * count
    rows = [
        [name, f"{statistics.median(total / s for s in values):.1f}", values, timer.opening[name]]
        for name, values in seconds.items()
    ]
    print(f"{len(work.cells)} cells, {total:,} predictions")
    common.table(["executor", "images/s", "seconds", "seconds to open"], rows)
    for kind in ("devices", "ray"):
        one, two = (seconds[f"{kind}, {count}"] for count in (1, 2))
        common.ratio(f"{kind}, one worker over direct", common.ratios(seconds["direct"], one), ">= 0.95")
        common.ratio(f"{kind}, two workers over one", common.ratios(one, two), ">= 1.8 on two idle cores")
        common.ratio(f"{kind}, two workers over two processes", common.ratios(seconds[TWICE], two), ">= 0.9")


if __name__ == "__main__":
    main()
