"""Pairs of a command and a database that somebody made to lie, each under a seed: nobody believes a lie or loses a row.

`hostile_commands.py --pairs 1000` is a long campaign. A command gives what it gives for the sound database, or
one line; with bytes that are damaged it may also end, as DuckDB does.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from subprocess import CompletedProcess
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # for a run without pytest
from campaigns import run_campaign
from disks import facts_of
from hostile_databases import DAMAGED, NEW_ROWS, TRICKS, make_hostile
from interrupts import make_bench
from small import bandlens

COMMANDS = (
    *("sql FROM|accuracy", "sql FROM|metric", "studies list", "studies show s", "verify"),
    *("report --out report.html", "analyze", "plan study.toml", "run study.toml"),
    *("studies rename s t", "studies delete s --yes"),
)
VARYING = re.compile(r"[\d.]+ (s|[kM]?B)\b|[\d.]+ a second")
"""Times and sizes that a command prints, which differ from one call to the next."""


@dataclass(frozen=True)
class Result:
    """The output of a command, and what the database holds afterwards."""

    output: str
    facts: set[tuple[Any, ...]]


def call(words: str, folder: Path) -> CompletedProcess[str]:
    arguments = [word.replace("|", " ") for word in words.split()]
    return bandlens(*arguments, "--db", folder / "results.duckdb", cwd=folder)


def result_of(answer: CompletedProcess[str], folder: Path) -> Result:
    output = VARYING.sub("N", answer.stdout).replace(str(folder), "FOLDER")
    return Result(output, facts_of(folder / "results.duckdb"))


def strike(words: str, trick: str, bench: Path, folder: Path, seed: int, truth: Result) -> str:
    """Give a command a hostile database; it answers as for the sound one, or with one line."""
    shutil.copytree(bench, folder)
    make_hostile(trick, bench / "results.duckdb", folder, seed)
    answer = call(words, folder)
    case = f"seed {seed}: {words}, {trick}"
    assert "Traceback" not in answer.stderr, (case, answer.stderr)
    if answer.returncode < 0:
        assert trick in DAMAGED, (case, answer.returncode, answer.stderr)
        return "ended by DuckDB"
    if answer.returncode:
        assert answer.stderr.splitlines()[-1].startswith("bandlens: "), (case, answer.stderr)
        return "refused in one line"
    assert trick in DAMAGED | NEW_ROWS or result_of(answer, folder) == truth, (case, answer.stdout)
    return "answered with the truth"


def campaign(pairs: int, seed: int) -> Counter[str]:
    """Strike as many pairs, in an order that the seed draws; how they ended, and how often."""
    truths, counts = dict[str, Result](), Counter[str]()
    every_pair = list(product(COMMANDS, TRICKS))
    Random(seed).shuffle(every_pair)
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        bench, folder = Path(name).resolve() / "bench", Path(name).resolve() / "struck"
        make_bench(bench)
        for number in range(pairs):
            words, trick = every_pair[number % len(every_pair)]
            if words not in truths:
                shutil.copytree(bench, folder)
                truths[words] = result_of(call(words, folder), folder)
                shutil.rmtree(folder)
            counts[strike(words, trick, bench, folder, seed + number, truths[words])] += 1
            shutil.rmtree(folder)
    return counts


def main() -> None:
    run_campaign(__doc__, campaign, {"pairs": (len(COMMANDS) * len(TRICKS), "pairs, of which there are so many")})


if __name__ == "__main__":
    main()
