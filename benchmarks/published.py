"""The atlas: `bandlens published list`, and whole tables of correlations, in turn with `python -c pass`.

Each is a process of its own, from start to end, over the figures that ship: 1,267 models of timm at all their sizes,
668 of 2022, the testbed's 338, RobustBench and the study. With --imagenetx DIR also: 50,000 predictions of each of its
four models are imported, and their errors compared.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import _common as common
from _common import BANDLENS, Variant

NETWORKS = ("ResNet50", "DINO", "SimCLR", "ViT")
FOUR = "import predictions, analyze"
GOALS = {"python -c pass": "-", FOUR: "<= 10"}
"""The goal of each process in seconds; the others have GOAL."""
GOAL = "<= 2"


def four(files: Path) -> Variant:
    """Import ImageNet-X into a new database, and compare the errors of every two of its models."""

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="bandlens-benchmark-") as scratch:
            db = f"{scratch}/results.duckdb"
            words = (str(files / "predictions.parquet"), "--images", str(files / "labels.parquet"), "--db", db)
            names = [word for name in NETWORKS for word in ("--checkpoint", name)]
            common.run_program(BANDLENS, "import", "predictions", *words, *names, says="50,000 predictions")
            common.run_program(BANDLENS, "analyze", "--db", db)
            common.run_program(BANDLENS, "sql", "SELECT count(*) AS pairs FROM error_consistency", "--db", db, says="6")

    return common.timed(work)


def main() -> None:
    options = common.arguments(
        __doc__, repeats=9, quick=1, imagenetx=("", "folder of predictions.parquet and labels.parquet")
    )
    common.machine("polars", "numpy", "scipy")
    processes = {
        "python -c pass": common.process(sys.executable, "-c", "pass"),
        "published list": common.process(BANDLENS, "published", "list", says="timm-2022"),
        "published relate": common.process(BANDLENS, "published", "relate", says="imagenet-sketch"),
        "published relate --models study": common.process(BANDLENS, "published", "relate", "--models", "study"),
        "published show fits": common.process(BANDLENS, "published", "show", "fits", says="testbed"),
        "papers": common.process(BANDLENS, "papers", says="robustbench"),
        "published show agree": common.process(BANDLENS, "published", "show", "agree", says="RobustBench"),
    } | ({FOUR: four(Path(options.imagenetx))} if options.imagenetx else {})
    cpu: dict[str, list[float]] = {name: [] for name in processes}
    variants = {name: common.with_processor(work, cpu[name]) for name, work in processes.items()}
    seconds = common.in_turn(variants, options.repeats)
    bare = seconds["python -c pass"]
    common.table(
        ["process", "s", "goal, s", "user + sys, s", "times python -c pass"],
        [
            [name, values, GOALS.get(name, GOAL), cpu[name][-options.repeats :], common.ratios(values, bare)]
            for name, values in seconds.items()
        ],
    )
    common.ratio(
        "published relate over python -c pass", common.ratios(seconds["published relate"], bare), f"none ({GOAL} s)"
    )


if __name__ == "__main__":
    main()
