"""The atlas: `bandlens published list`, and whole tables of correlations, in turn with `python -c pass`.

Each is a process of its own, from start to end, over the figures that ship: 1,267 models of timm at all their sizes,
668 of 2022, the testbed's 338, RobustBench and the study. With --imagenetx DIR also: 50,000 predictions of each of its
four models are imported, and their errors compared.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import Variant, arguments, in_turn, machine, ratio, ratios, spread, table, timed

NETWORKS = ("ResNet50", "DINO", "SimCLR", "ViT")
FOUR = "import predictions, analyze"
GOALS = {"python -c pass": "-", FOUR: "<= 10"}
"""The goal of each process in seconds; the others have GOAL."""
GOAL = "<= 2"


def run(*command: str, says: str = "") -> None:
    """Run a command whose output must have the text `says`."""
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    if says not in result.stdout:
        raise SystemExit(f"{' '.join(command)} said: {result.stdout}{result.stderr}")


def process(*command: str, says: str = "") -> Variant:
    """Seconds from start to end."""
    return timed(lambda: run(*command, says=says))


def four(bandlens: str, files: Path) -> Variant:
    """Import ImageNet-X into a new database, and compare the errors of every two of its models."""

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="bandlens-benchmark-") as scratch:
            db = f"{scratch}/results.duckdb"
            words = (str(files / "predictions.parquet"), "--images", str(files / "labels.parquet"), "--db", db)
            names = [word for name in NETWORKS for word in ("--checkpoint", name)]
            run(bandlens, "import", "predictions", *words, *names, says="50,000 predictions")
            run(bandlens, "analyze", "--db", db)
            run(bandlens, "sql", "SELECT count(*) AS pairs FROM error_consistency", "--db", db, says="6")

    return timed(work)


def with_cpu(name: str, variant: Variant, cpu: dict[str, list[float]]) -> Variant:
    """The variant; what it takes of the processor, in seconds, is added to cpu[name]: other work does not count."""

    def measured() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = variant()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.setdefault(name, []).append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return seconds

    return measured


def main() -> None:
    options = arguments(__doc__, repeats=9, quick=1, imagenetx=("", "folder of predictions.parquet and labels.parquet"))
    bandlens = str(Path(sys.executable).with_name("bandlens"))
    machine("polars", "numpy", "scipy")
    cpu: dict[str, list[float]] = {}
    processes = {
        "python -c pass": process(sys.executable, "-c", "pass"),
        "published list": process(bandlens, "published", "list", says="timm-2022"),
        "published relate": process(bandlens, "published", "relate", says="imagenet-sketch"),
        "published relate --models study": process(bandlens, "published", "relate", "--models", "study"),
        "published show fits": process(bandlens, "published", "show", "fits", says="testbed"),
        "papers": process(bandlens, "papers", says="robustbench"),
        "published show agree": process(bandlens, "published", "show", "agree", says="RobustBench"),
    } | ({FOUR: four(bandlens, Path(options.imagenetx))} if options.imagenetx else {})
    seconds = in_turn({name: with_cpu(name, work, cpu) for name, work in processes.items()}, options.repeats)
    bare = seconds["python -c pass"]
    table(
        ["process", "s", "goal, s", "user + sys, s", "times python -c pass"],
        [
            [
                name,
                spread(values),
                GOALS.get(name, GOAL),
                spread(cpu[name][-options.repeats :]),
                spread(ratios(values, bare)),
            ]
            for name, values in seconds.items()
        ],
    )
    ratio("published relate over python -c pass", ratios(seconds["published relate"], bare), f"none ({GOAL} s)")


if __name__ == "__main__":
    main()
