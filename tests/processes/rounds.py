"""A long run of tiny cells in one process: are memory, file handles and the time of a round steady?

Every round is a new version of one study, with a seed of its own and so with new cells: it is read, resolved, planned,
run into one database, and looked at through a view.
`rounds.py --minutes 60 --cells 10000` does this for an hour.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # for a run without pytest
from small import ask, make_images, make_model, make_pictures, make_study

from bandlens.app.study.file import Study
from bandlens.app.study.plan import plan_study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study

MODELS, IMAGES = 4, 12
PROBES = "critical_band = {noise_sd = [0.02, 0.04, 0.08, 0.16], grey = false}"
"""28 conditions of noise."""
MB = 1e6
MOST_MEMORY = 1.1
"""The largest growth of memory from the second quarter of the rounds to the last."""


@dataclass(frozen=True)
class Round:
    cells: int
    """Cells that it ran."""
    seconds: float
    memory: float
    """Megabytes that the process occupies afterwards: RssAnon."""
    handles: int
    """Open files."""


def prepare(folder: Path) -> Path:
    """The models and the images; gives the database's place."""
    for seed in range(MODELS):
        make_model(folder / "models", f"model{seed}", seed=seed)
    make_images(folder / "images.set", make_pictures(IMAGES), labels=[k % 12 for k in range(IMAGES)])
    return folder / "results.duckdb"


def run_round(folder: Path, database: Path, seed: int) -> Round:
    start = time.perf_counter()
    work = resolve(Study.read(make_study(folder, seed=seed, probes=PROBES)))
    plan = plan_study(work, database)
    ran = run_study(work, database)
    row_count = ask(database, "SELECT count(*) FROM accuracy")[0][0]
    if ran.failed or ran.ran != len(plan.missing) or row_count != len(work.cells):
        raise SystemExit(f"seed {seed}: {len(plan.missing)} planned, {ran.ran} run, {row_count} shown, {ran.failed}")
    seconds = time.perf_counter() - start
    gc.collect()
    return Round(ran.ran, seconds, _anonymous(), len(list(Path("/proc/self/fd").iterdir())))


def _anonymous() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith("RssAnon"))


def growth(rounds: Sequence[Round], quantity: str, unit: str) -> float:
    """How many times as much of a quantity the last quarter of the rounds has as the second one; prints it."""
    quarter = len(rounds) // 4
    second, last = (
        statistics.median(getattr(result, quantity) for result in quarter_rounds)
        for quarter_rounds in (rounds[quarter : 2 * quarter], rounds[-quarter:])
    )
    print(f"{quantity}: {second:.4g} {unit} in the second quarter, {last:.4g} in the last; ratio {last / second:.3f}")
    return last / second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5, help="minutes that it lasts (default half a minute)")
    parser.add_argument("--cells", type=int, default=1000, help="cells that it runs at least (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round, the next ones follow (default 0)")
    options = parser.parse_args()
    print(f"seeds of the studies: from {options.seed} on", flush=True)
    with tempfile.TemporaryDirectory(prefix="bandlens-soak-") as name:
        folder = Path(name)
        database, rounds = prepare(folder), list[Round]()
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end or sum(result.cells for result in rounds) < options.cells:
            rounds.append(run_round(folder, database, options.seed + len(rounds)))
        print(f"{sum(result.cells for result in rounds):,} cells in {len(rounds)} rounds")
        growth(rounds, "seconds", "s a round")
        memory, handles = growth(rounds, "memory", "MB"), growth(rounds, "handles", "open files")
        sys.exit(memory > MOST_MEMORY or handles > 1)


if __name__ == "__main__":
    main()
