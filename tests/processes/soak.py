"""Hours of what the tests try in short: `make soak HOURS=8 SEED=0` runs each job in turn, and again under new seeds.

The command of each job is printed, with its seed. Those that failed are printed once more at the end, and repeat it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROPERTIES = "-m hypothesis --hypothesis-profile soak --hypothesis-seed {seed} --timeout 0 -n 2"
JOBS = (
    "tests/processes/faults.py --local 60 --ray 12 --seed {seed}",
    "tests/processes/disks.py --power 200 --commands 20 --seed {seed}",
    "tests/processes/interrupts.py --signals 72 --seed {seed}",
    "tests/processes/dependent_probes.py --probes 5000 --seed {seed}",
    "tests/processes/hostile_commands.py --pairs 72 --seed {seed}",
    "tests/processes/rounds.py --minutes 5 --seed {seed}",
    "-m pytest tests/card/test_run_on_card.py -k no_order --first-order {seed} --timeout 0 -n 2",
    f"-m pytest tests/hostile {PROPERTIES}",
    f"-m pytest tests/unit {PROPERTIES}",
)
"""Arguments of Python: together they take the better part of an hour on two cores."""
STEP = 10_000
"""The distance between the seeds of two turns: a job counts on from its seed."""
LIMIT_SECONDS = 3600
"""Seconds after which a job counts as hung."""


def jobs_from(seed: int) -> Iterator[str]:
    """Turn after turn of all jobs, each with seeds of its own."""
    while True:
        yield from (job.format(seed=seed) for job in JOBS)
        seed += STEP


def run_job(job: str) -> bool:
    """Run a job; gives whether it succeeded."""
    print(f"$ OMP_NUM_THREADS=1 {sys.executable} {job}", flush=True)
    start = time.monotonic()
    command = [sys.executable, *shlex.split(job)]
    try:
        ran = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    print(f"exit status {ran.returncode} after {time.monotonic() - start:.0f} s", flush=True)
    return ran.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1, help="hours after which no job begins (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first turn (default %(default)s)")
    options = parser.parse_args()
    end, failures = time.monotonic() + 3600 * options.hours, list[str]()
    for job in jobs_from(options.seed):
        if not run_job(job):
            failures.append(job)
        if time.monotonic() > end:
            break
    for job in failures:
        print(f"failed: OMP_NUM_THREADS=1 {sys.executable} {job}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
