"""The atlas: `bandlens published list`, and whole tables of correlations, in turn with `python -c pass`.

Each is a process of its own, from start to end, over the figures that ship: 1,267 models of timm at all their sizes,
668 of 2022, the testbed's 338, RobustBench and the study.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _common import Variant, arguments, in_turn, machine, ratio, ratios, spread, table, timed

GOAL = "2"


def process(*command: str, says: str = "") -> Variant:
    """Seconds from start to end; what it says must be in its output."""

    def work() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        if says not in done.stdout:
            raise SystemExit(f"{' '.join(command)} said: {done.stdout}{done.stderr}")

    return timed(work)


def main() -> None:
    given = arguments(__doc__, repeats=9, quick=1)
    bandlens = str(Path(sys.executable).with_name("bandlens"))
    machine("polars", "numpy", "scipy")
    seconds = in_turn(
        {
            "python -c pass": process(sys.executable, "-c", "pass"),
            "published list": process(bandlens, "published", "list", says="timm-2022"),
            "published relate": process(bandlens, "published", "relate", says="imagenet-sketch"),
            "published relate --models study": process(bandlens, "published", "relate", "--models", "study"),
            "published fits": process(bandlens, "published", "fits", says="testbed"),
            "published agree": process(bandlens, "published", "agree", says="RobustBench"),
        },
        given.repeats,
    )
    bare = seconds["python -c pass"]
    table(
        ["process", "s", "goal, s", "times python -c pass"],
        [
            [name, spread(values), "-" if name == "python -c pass" else f"<= {GOAL}", spread(ratios(values, bare))]
            for name, values in seconds.items()
        ],
    )
    ratio("published relate over python -c pass", ratios(seconds["published relate"], bare), f"none ({GOAL} s)")


if __name__ == "__main__":
    main()
