"""Probes of a user's own in commands: what they print, what a crash leaves, and how an interruption names them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

from made_up_results import python
from small import ask, bandlens, make_study
from waiting import LIMIT_SECONDS, wait_until

LOUD = """
import ctypes, os, subprocess, sys

print('loading')

def loud(images, how, rng):
    '''Says what it does.'''
    print('at work')
    print('past it', file=sys.stdout)
    os.write(1, b'below it\\n')
    subprocess.run([sys.executable, '-c', 'print("a program")'], check=True)
    ctypes.CDLL(None).puts(b'a library')
    ctypes.CDLL(None).fflush(None)
    if how == 'exit':
        sys.exit(3)
    if how == 'generator':
        raise GeneratorExit
    return images
"""
OUTPUT_LINES = {"loading", "at work", "past it", "below it", "a program", "a library"}


def test_what_a_probe_prints_is_no_part_of_the_json(workplace: Path) -> None:
    (workplace / "loud.py").write_text(LOUD)
    probes = "lowpass.cutoff = 0.3\nloud = {file = 'loud.py', how = ['well', 'exit', 'generator']}"
    study = make_study(workplace, probes=probes)
    listing = bandlens("probes", "list", "--study", study, "--format", "json")
    assert {row["what"] for row in json.loads(listing.stdout)} > {"Says what it does."}
    assert listing.stderr == "loading\n"
    answer = bandlens("run", study, "--db", workplace / "results.duckdb", "--format", "json")
    failed = {failure["cell"].partition("how=")[2]: failure["error"] for failure in json.loads(answer.stdout)["failed"]}
    assert failed == {
        "exit": "probe loud failed: SystemExit: 3 (loud.py, line 15)",
        "generator": "probe loud failed: GeneratorExit (loud.py, line 17)",
    }
    assert set(answer.stderr.splitlines()) > OUTPUT_LINES
    assert "Traceback" not in answer.stderr
    for how, error in failed.items():
        assert f"bandlens: warning: loud how={how} failed (1 cell): {error}\n" in answer.stderr
    stored = ask(workplace / "results.duckdb", "SELECT probe, n FROM accuracy ORDER BY ALL")
    assert stored == [("clean", 20), ("loud", 20), ("lowpass", 20)]
    plan = bandlens("plan", study, "--db", workplace / "results.duckdb")
    for how, error in failed.items():
        assert f"when last tried, loud how={how} failed (1 cell): {error}\n" in plan.stdout
    answer = bandlens("-v", "run", study, "--db", workplace / "results.duckdb")
    # From Python 3.13 on a line of marks stands below the failing one.
    assert re.search(r'loud.py", line 15, in loud\n    sys.exit\(3\)\n(.*\n)?SystemExit: 3\n', answer.stderr)


CRASHES = """
import ctypes

def crashes(images, at, index):
    return ctypes.string_at(0) if index == at else images
"""


def test_a_crash_names_its_line_and_the_next_run_goes_on_without_the_condition(workplace: Path) -> None:
    (workplace / "crashes.py").write_text(CRASHES)
    study = make_study(workplace, probes="lowpass.cutoff = 0.3\ncrashes = {file = 'crashes.py', at = [17, -1]}")
    database = workplace / "results.duckdb"
    answer = bandlens("run", study, "--db", database)
    assert answer.returncode == -signal.SIGSEGV
    assert f'File "{workplace / "crashes.py"}", line 5 in crashes\n' in answer.stderr
    assert bandlens("sql", "FROM accuracy", "--db", database).returncode == 0
    answer = bandlens("run", study, "--db", database, "--format", "json")
    [failure] = json.loads(answer.stdout)["failed"]
    assert failure["cell"].endswith("crashes at=17")
    assert failure["error"].startswith("it ended an earlier run: Segmentation fault in crashes.py, line 5; mend it, ")
    stored = ask(database, "SELECT probe, n FROM accuracy ORDER BY ALL")
    assert stored == [("clean", 20), ("crashes", 20), ("lowpass", 20)]
    assert not [file for file in workplace.iterdir() if "crash." in file.name]


def test_a_crash_as_a_file_loads_names_its_line(workplace: Path) -> None:
    (workplace / "mine.py").write_text("import ctypes\nctypes.string_at(0)\n")
    study = make_study(workplace, probes="mine.file = 'mine.py'")
    answer = bandlens("plan", study, "--db", workplace / "results.duckdb")
    assert (answer.returncode, answer.stdout) == (-signal.SIGSEGV, "")
    assert f'File "{workplace / "mine.py"}", line 2 in <module>\n' in answer.stderr


HASTE = """
import sys
from bandlens.core import jobs
jobs.SLOW_SECONDS = 0.1
from bandlens.app.cli import console
console.LINE_SECONDS = 0.2
from bandlens.__main__ import main
sys.argv[0] = "bandlens"
main()
"""


def test_a_call_that_takes_long_is_named_by_progress_and_an_interruption(workplace: Path) -> None:
    (workplace / "slow.py").write_text("import time\n\ndef slow(images):\n    time.sleep(600)\n")
    study = make_study(workplace, probes="slow.file = 'slow.py'")
    log = workplace / "log"
    command = python(HASTE, "run", study, "--db", workplace / "results.duckdb")
    with log.open("w") as file, subprocess.Popen(command, stderr=file, text=True) as process:
        wait_until(lambda: "running (probe slow has been at work for " in log.read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_SECONDS) == 128 + signal.SIGINT
    last_line = log.read_text().splitlines()[-1]
    assert last_line.startswith("bandlens: interrupted while probe slow has been at work for ")
    assert re.search(r" s; \d+ of 40 predictions are stored, .*, run the same command to go on$", last_line)
