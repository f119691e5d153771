"""Probes of a user's own in commands: what they print, what a crash leaves, and how an interruption names them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from small import ask, bandlens, make_study

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
    assert 'loud.py", line 15, in loud\n    sys.exit(3)\nSystemExit: 3\n' in answer.stderr


CRASHES = """
import ctypes

def crashes(images, at, index):
    return ctypes.string_at(0) if index == at else images
"""


def test_a_crash_names_its_line_and_a_process_beside_loses_its_condition_alone(workplace: Path) -> None:
    (workplace / "crashes.py").write_text(CRASHES)
    study = make_study(workplace, probes="lowpass.cutoff = 0.3\ncrashes = {file = 'crashes.py', at = [17, -1]}")
    database = workplace / "results.duckdb"
    answer = bandlens("run", study, "--db", database)
    assert answer.returncode == -signal.SIGSEGV
    assert f'File "{workplace / "crashes.py"}", line 5 in crashes\n' in answer.stderr
    assert bandlens("sql", "FROM accuracy", "--db", database).returncode == 0
    answer = bandlens("run", study, "--db", database, "--devices", "cpu", "--format", "json")
    [failure] = json.loads(answer.stdout)["failed"]
    assert failure["cell"].endswith("crashes at=17")
    stored = ask(database, "SELECT probe, n FROM accuracy ORDER BY ALL")
    assert stored == [("clean", 20), ("crashes", 20), ("lowpass", 20)]


def test_a_crash_as_a_file_loads_names_its_line(workplace: Path) -> None:
    (workplace / "mine.py").write_text("import ctypes\nctypes.string_at(0)\n")
    study = make_study(workplace, probes="mine.file = 'mine.py'")
    answer = bandlens("plan", study, "--db", workplace / "results.duckdb")
    assert (answer.returncode, answer.stdout) == (-signal.SIGSEGV, "")
    assert f'File "{workplace / "mine.py"}", line 2 in <module>\n' in answer.stderr
