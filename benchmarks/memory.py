"""Peak memory of `bandlens run` with ResNet-50 at batch 32 over 200 and over 2,000 images.

Each run is a process of its own. Two numbers are taken of it:
`resident`: ru_maxrss, the largest resident set, which holds pages of the memory-mapped images and of shared libraries
that the system takes back when it needs them;
`anonymous`: the largest RssAnon of /proc/PID/status, sampled every 10 ms, which is what the process really occupies.

Three conditions stand for the grid: memory depends on the group of conditions, not on how many it has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from _common import BATCH, MODEL, arguments, folder, image_set, machine, ratio, ratios, resnet50, spread, table

FEW = """
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
        f"batch = {BATCH}\nthreads = {threads}\n[probes]{FULL if full else FEW}",
        encoding="utf-8",
    )
    return file


def run(file: Path) -> Peak:
    """The run of a study into a new database."""
    database = file.with_suffix(".duckdb")
    remove(database)
    command = [sys.executable, "-m", "bandlens", "run", str(file), "--db", str(database)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    samples: list[tuple[int, int]] = []
    ended = threading.Event()
    sampler = threading.Thread(target=sample, args=(child.pid, samples, ended))
    sampler.start()
    errors = child.stderr.read() if child.stderr else b""
    _, status, usage = os.wait4(child.pid, 0)
    ended.set()
    sampler.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    remove(database)
    if child.returncode:
        raise SystemExit(f"the run failed: {errors.decode()}")
    anonymous, mapped = (max(column) for column in zip(*samples, strict=True))
    return Peak(usage.ru_maxrss * 1024, anonymous, mapped)


def remove(database: Path) -> None:
    """Remove a database with the log that a killed run leaves."""
    for file in (database, database.with_name(f"{database.name}.wal")):
        file.unlink(missing_ok=True)


def sample(pid: int, samples: list[tuple[int, int]], ended: threading.Event) -> None:
    """Append anonymous and file-backed bytes until the process has ended."""
    while not ended.wait(0.01):
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return
        status = dict(line.split(":", 1) for line in lines)
        if "RssAnon" in status:
            samples.append(tuple(int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")))


def main() -> None:
    options = arguments(
        __doc__,
        repeats=2,
        quick=1,
        threads=(2, "threads of the session"),
        full=(False, "all 52 conditions instead of three"),
    )
    few, many = (BATCH, 3 * BATCH) if options.quick else (200, 2000)
    peaks: dict[int, list[Peak]] = {few: [], many: []}
    machine("onnxruntime", "duckdb")
    with folder(options.keep) as prepared:
        resnet50(prepared / "models")
        prepared = prepared.resolve()
        files = {
            count: study(prepared, image_set(prepared / f"{count}.set", count), options.threads, options.full)
            for count in peaks
        }
        for _ in range(options.repeats):
            for count, file in files.items():
                peaks[count].append(run(file))
    table(
        ["images", "resident MB", "anonymous MB", "file-backed MB"],
        [
            [
                f"{count:,}",
                *(spread([getattr(p, name) / MB for p in runs], ".0f") for name in ("resident", "anonymous", "mapped")),
            ]
            for count, runs in peaks.items()
        ],
    )
    for name in ("anonymous", "resident"):
        grown = ratios([getattr(p, name) for p in peaks[many]], [getattr(p, name) for p in peaks[few]])
        ratio(f"{name} memory, {many:,} over {few:,} images", grown, "<= 1.05")
    print(f"largest resident set: {max(p.resident for p in peaks[many]) / MB:.0f} MB; goal < 1500 MB")


if __name__ == "__main__":
    main()
