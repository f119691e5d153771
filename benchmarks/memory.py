"""Peak memory of `bandlens run` with ResNet-50 at batch 32 over 200 and over 2,000 images.

Each run is a process of its own. Two numbers are taken of it:
`resident`: ru_maxrss, the largest resident set, which holds pages of the memory-mapped images and of shared libraries
that the system takes back when it needs them;
`anonymous`: the largest RssAnon of /proc/PID/status, sampled every 10 ms, which is what the process really occupies.

Three conditions stand for the grid: memory depends on the group of conditions, not on how many it has.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import _common as common
from _common import BATCH, MODEL

FEW_CONDITIONS = """
lowpass = { cutoff = [0.5] }
critical_band = { noise_sd = [0.16], frequency = [0], grey = false }
"""
FULL = """
lowpass = {}
highpass = {}
critical_band = {}
"""
MB = 1e6


@dataclass(frozen=True)
class Peak:
    """The most memory that a run took, in bytes."""

    resident: int
    anonymous: int
    mapped: int


def study(folder: Path, images: Path, threads: int, full: bool) -> Path:
    file = folder / f"{images.stem}.toml"
    file.write_text(
        f'checkpoints = ["{MODEL}"]\nmodels = "{folder / "models"}"\nimages = ["{images}"]\n'
        f"batch = {BATCH}\nthreads = {threads}\n[probes]{FULL if full else FEW_CONDITIONS}",
        encoding="utf-8",
    )
    return file


def run(file: Path) -> Peak:
    """The run of a study into a new database."""
    database = file.with_suffix(".duckdb")
    remove(database)
    samples: list[tuple[int, int]] = []
    words = (sys.executable, "-m", "bandlens", "run", file, "--no-analyze", "--db", database)
    _, usage = common.run_program(*words, watch=partial(sample, samples))
    remove(database)
    anonymous, mapped = (max(column) for column in zip(*samples, strict=True))
    return Peak(int(usage.resident * MB), anonymous, mapped)


def remove(database: Path) -> None:
    """Remove a database with the log that a killed run leaves."""
    for file in (database, database.with_name(f"{database.name}.wal")):
        file.unlink(missing_ok=True)


def sample(samples: list[tuple[int, int]], pid: int) -> None:
    """Append anonymous and file-backed bytes, every 10 ms until the process has ended."""
    with suppress(OSError):
        while True:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
            status = dict(line.split(":", 1) for line in lines)
            if "RssAnon" not in status and samples:  # it has ended, and nobody has asked how
                return
            if "RssAnon" in status:
                samples.append(tuple(int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")))
            time.sleep(0.01)


def main() -> None:
    options = common.arguments(
        __doc__,
        repeats=2,
        quick=1,
        threads=(2, "threads of the session"),
        full=(False, "all 52 conditions instead of three"),
    )
    images_a, images_b = (BATCH, 3 * BATCH) if options.quick else (200, 2000)
    peaks: dict[int, list[Peak]] = {images_a: [], images_b: []}
    common.machine("onnxruntime", "duckdb")
    with common.folder(options.keep) as prepared:
        common.resnet50(prepared / "models")
        prepared = prepared.resolve()
        files = {
            count: study(prepared, common.image_set(prepared / f"{count}.set", count), options.threads, options.full)
            for count in peaks
        }
        for _ in range(options.repeats):
            for count, file in files.items():
                peaks[count].append(run(file))
    common.table(
        ["images", "resident MB", "anonymous MB", "file-backed MB"],
        [
            [
                f"{count:,}",
                *(
                    common.spread([getattr(p, name) / MB for p in runs], ".0f")
                    for name in ("resident", "anonymous", "mapped")
                ),
            ]
            for count, runs in peaks.items()
        ],
    )
    for name in ("anonymous", "resident"):
        growth = common.ratios([getattr(p, name) for p in peaks[images_b]], [getattr(p, name) for p in peaks[images_a]])
        common.ratio(f"{name} memory, {images_b:,} over {images_a:,} images", growth, "<= 1.05")
    print(f"largest resident set: {max(p.resident for p in peaks[images_b]) / MB:.0f} MB; goal < 1500 MB")


if __name__ == "__main__":
    main()
