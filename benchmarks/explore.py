"""The explorer over a database at the size of the study: how soon it answers, and how much memory it takes.

A process of its own answers what the page asks, as its server does, over made-up predictions of 48 checkpoints under 52
conditions: the study (accuracies and metrics), then each selection of images for one pair of models under one condition
after the other. The selection `flips` is compared with the plain query that it cannot do without, a join of the two
cells. The database is deleted.
"""

from __future__ import annotations

import json
import statistics
import sys

from _common import arguments, folder, machine, ratio, ratios, run_program, table
from store import fill

QUESTIONS = """
import json, sys, time
from pathlib import Path
from bandlens.app.explore.answers import SELECTIONS, Answers, ImageQuery
from bandlens.app.study.set_lookup import Conditions
from bandlens.app.explore import server  # its libraries take memory, too
answers, seconds = Answers(Path(sys.argv[1]), {}, Conditions()), {}
def timed(name, work):
    started = time.perf_counter()
    answer = work()
    seconds.setdefault(name, []).append(time.perf_counter() - started)
    return answer
study = timed("study, first", lambda: answers.study(None))
timed("study, again", lambda: answers.study(None))
names = [model["name"] for model in study["models"]]
conditions = [condition["id"] for condition in study["conditions"]][1:]
for turn in range(int(sys.argv[2])):
    condition, a, b = conditions[turn % len(conditions)], names[turn % len(names)], names[(turn + 1) % len(names)]
    for selection in SELECTIONS:
        asks = ("synthetic", "synthetic", condition, a, b, selection, None, names)
        timed(selection, lambda: answers.images(ImageQuery(*asks)))
    with answers._database() as store:
        cells = answers._tables[study["study"]].cells.filter(condition=condition, checkpoint=a).row(0, named=True)
        plain = (
            "SELECT count(*) FROM prediction AS a JOIN prediction AS c USING (image_index) "
            "WHERE a.cell = ? AND c.cell = ? AND a.predicted <> c.predicted"
        )
        timed("plain", lambda: store.frame(plain, [cells["cell"], cells["clean_cell"]]))
status = Path("/proc/self/status").read_text().splitlines()
seconds["memory"] = [int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM")]
print(json.dumps(seconds))
"""


def main() -> None:
    options = arguments(__doc__, repeats=15, quick=1, checkpoints=(48, "with 52 cells each"))
    machine("duckdb", "polars")
    with folder(options.keep) as scratch:
        path = scratch / "explored.duckdb"
        count, checkpoints = (2_000, 4) if options.quick else (50_000, options.checkpoints)
        try:
            predictions = fill(path, "synthetic", count, range(checkpoints), min(12_500, count))
            output, _ = run_program(sys.executable, "-P", "-c", QUESTIONS, path, options.repeats)
        finally:
            path.unlink(missing_ok=True)
    seconds = json.loads(output)
    memory = seconds.pop("memory")[0]
    print(f"{predictions / 1e6:.1f} M predictions")
    rows = [[name, values, "< 1 s" if name != "study, first" else "-"] for name, values in seconds.items()]
    table(["what, s", "figure", "goal"], [*rows, ["memory of the process, MB", f"{memory:.0f}", "< 300"]])
    ratio("flips over the plain join, time", ratios(seconds["flips"], seconds["plain"]), "none")
    slowest = max(statistics.median(values) for name, values in seconds.items() if name != "study, first")
    print(f"slowest answer, median: {slowest:.2f} s")


if __name__ == "__main__":
    main()
