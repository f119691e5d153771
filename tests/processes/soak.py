"""A long run of tiny cells in one process: are memory, file handles and the time of a round steady?

Every round is a new version of one study, with a seed of its own and so with new cells: it is read, resolved, planned,
run into one database, and looked at through a view.
`make campaign JOBS=soak ARGS="--minutes 60 --cells 10000"` does this for an hour.
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
from bandlens.app.study.run import run_study

MODELS, IMAGES = 4, 12
PROBES = "critical_band = {noise_sd = [0.02, 0.04, 0.08, 0.16], grey = false}"
"""28 conditions of noise."""
MB = 1e6


@dataclass(frozen=True)
class Round:
    cells: int
    """That it ran."""
    seconds: float
    memory: int
    """Bytes that the process really occupies afterwards: RssAnon."""
    handles: int
    """Open files."""


def prepare(folder: Path) -> Path:
    """The models and the images; gives the database's place."""
    for seed in range(MODELS):
        make_model(folder / "models", f"model{seed}", seed=seed)
    make_images(folder / "images.set", make_pictures(IMAGES), labels=[k % 12 for k in range(IMAGES)])
    return folder / "results.duckdb"


def one_round(folder: Path, database: Path, number: int) -> Round:
    started = time.perf_counter()
    work = resolve(Study.read(make_study(folder, seed=number, probes=PROBES)))
    planned = plan_study(work, database)
    ran = run_study(work, database)
    shown = ask(database, "SELECT count(*) FROM accuracy")[0][0]
    if ran.failed or ran.ran != len(planned.missing) or shown != len(work.cells):
        raise SystemExit(f"round {number}: {len(planned.missing)} planned, {ran.ran} run, {shown} shown, {ran.failed}")
    seconds = time.perf_counter() - started
    gc.collect()
    return Round(ran.ran, seconds, _anonymous(), len(list(Path("/proc/self/fd").iterdir())))


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def report(rounds: Sequence[Round], database: Path) -> None:
    quarter = max(1, len(rounds) // 4)
    early, late = rounds[quarter : 2 * quarter], rounds[-quarter:]
    print(f"{sum(one.cells for one in rounds):,} cells in {len(rounds)} rounds, {database.stat().st_size / MB:.1f} MB")
    for name, unit, scale in (("memory", "MB", MB), ("seconds", "s a round", 1), ("handles", "open files", 1)):
        second, last = (statistics.median(getattr(one, name) / scale for one in some) for some in (early, late))
        print(f"{name}: {second:.4g} {unit} in the second quarter, {last:.4g} in the last; ratio {last / second:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5, help="how long (default half a minute)")
    parser.add_argument("--cells", type=int, default=1000, help="at least so many (default 1000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bandlens-soak-") as name:
        folder = Path(name)
        database, rounds = prepare(folder), list[Round]()
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end or sum(one.cells for one in rounds) < given.cells:
            rounds.append(one_round(folder, database, len(rounds)))
        report(rounds, database)


if __name__ == "__main__":
    main()
