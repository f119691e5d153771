"""Signals at random moments of a command, most of them in its first fractions of a second, and how it must end then.

`interrupts.py --signals 1000` is a long campaign. A moment is a number of events that
Python's audit hooks see: imports, opened files, executed code. So a seed strikes one instruction on every machine.
They are counted from where the command begins to obey signals: what comes before is Python's own start.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # for a run without pytest
from campaigns import run_campaign
from made_up_results import cell, image_set, part, python, store_study
from small import make_images, make_model, make_pictures, make_study
from waiting import LIMIT_SECONDS

from bandlens.analysis.database.open import open_store
from bandlens.app.cli.signals import MESSAGE

INTERRUPTED = re.compile(
    re.escape(MESSAGE).replace(
        re.escape("what was committed stays"),
        r"(what was committed stays|[\d,]+ of [\d,]+ predictions are stored, and .*)",
    )
)
"""The line of a command that a signal ends; a run says what is stored."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS = (
    *("--version", "--help", "probes list", "measures list", "published show", "doctor"),
    *("sql FROM|accuracy --db results.duckdb", "studies list --db results.duckdb", "verify --db results.duckdb"),
    *("analyze --db results.duckdb", "plan study.toml --db results.duckdb", "run study.toml --db results.duckdb"),
)
PROGRAM = """
import os, sys, time
moment, number, *words = sys.argv[1:]
moment, events = int(moment), 0
def count(event, arguments):
    global events
    events += 1
    if events == moment:
        os.kill(os.getpid(), int(number))
import atexit
if not moment:
    atexit.register(lambda: os.write(2, f"{events}".encode()))
from bandlens.__main__ import main
from bandlens.app.cli import signals
obey = signals.obey
def obey_from_here():
    obey()
    sys.addaudithook(count)
signals.obey = obey_from_here
sys.argv = ["bandlens", *words]
main()
"""
"""A command whose process gets a signal at an event; with 0 for it, the number of events is what it prints last."""


def call(words: str, folder: Path, moment: int, number: int) -> subprocess.CompletedProcess[str]:
    command = python(PROGRAM, moment, number, *(word.replace("|", " ") for word in words.split()))
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "BANDLENS_HOME": str(folder / "home")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def make_bench(folder: Path) -> None:
    """A results database, a model, images and a study that runs in a second."""
    folder.mkdir()
    images = image_set(4, labels=[0] * 4)
    with open_store(folder / "results.duckdb") as store:
        store_study(store, "s", images, [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])])
    make_model(folder / "models", "a")
    make_images(folder / "images.set", make_pictures(6), labels=[k % 6 for k in range(6)])
    make_study(folder, probes="lowpass = {cutoff = 0.3}")


def strike(words: str, events: int, bench: Path, folder: Path, seed: int) -> str:
    """Strike one command; it ends with one line, or was done, and ends well when it is given again."""
    random = Random(seed)
    number, moment = random.choice(SIGNALS), random.randint(1, events)
    shutil.copytree(bench, folder)
    answer = call(words, folder, moment, number)
    case = f"seed {seed}: {words}, {number.name} at event {moment} of {events}"
    if answer.returncode == 0:  # it was done before it heard of the signal
        outcome = "was done"
    else:
        assert answer.returncode == 128 + number, (case, answer.returncode, answer.stderr)
        outcome = "ended with one line"
    assert "Traceback" not in answer.stderr, (case, answer.stderr)
    if answer.returncode == 128 + number:
        assert INTERRUPTED.fullmatch(answer.stderr.splitlines()[-1]), (case, answer.stderr)
    repeated = call(words, folder, -1, number)
    assert repeated.returncode == 0, (case, "repeated", repeated.stderr)
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".")], (case, list(folder.iterdir()))
    return f"{number.name}: {outcome}"


def campaign(signals: int, seed: int) -> Counter[str]:
    """Send so many signals, to each command in turn; how they ended, and how often."""
    events, counts = dict[str, int](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="interrupts-") as name:
        scratch = Path(name).resolve()
        bench = scratch / "bench"
        make_bench(bench)
        for number in range(seed, seed + signals):
            words = COMMANDS[number % len(COMMANDS)]
            if words not in events:
                shutil.copytree(bench, scratch / "whole")
                answer = call(words, scratch / "whole", 0, 0)
                assert answer.returncode == 0, (words, answer.stderr)
                events[words] = int(answer.stderr.split("\n")[-1])
                shutil.rmtree(scratch / "whole")
            counts[strike(words, events[words], bench, scratch / "struck", number)] += 1
            shutil.rmtree(scratch / "struck")
    return counts


def main() -> None:
    run_campaign(__doc__, campaign, {"signals": (24, "signals")})


if __name__ == "__main__":
    main()
