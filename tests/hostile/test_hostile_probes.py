"""Probes of someone else's: what their code does ends as the error of its cells in one line, and the rest goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
from fuzzing import is_one_line
from PIL import Image
from small import Answer, Command, ask, bandlens, make_study
from waiting import LIMIT_SECONDS

from bandlens import user_function

ATTACKS = {
    "exit": ("os._exit(0)", "its process ended with exit status 0"),
    "abort": ("os.abort()", "its process was ended by SIGABRT"),
    "exec": ("os.execv(sys.executable, ['python', '-c', ''])", "its process ended with exit status 0"),
    "execlp": ("os.execlp('true', 'true')", "its process ended with exit status 0"),
    "sys.exit": ("sys.exit(0)", "SystemExit: 0"),
    "generator": ("raise GeneratorExit", "GeneratorExit"),
    "base": ("raise BaseException('a\\nb')", "BaseException: a b"),
    "hidden": ("try:\n    os._exit(0)\nexcept Exception:\n    pass", "its process ended with exit status 0"),
    "close all": ("os.closerange(0, 2**31 - 1)", "its process ended with exit status 1"),
    "take": ("[open(k).close() for k in range(3, 64)]", "its process ended with exit status 1"),
    "closed, then print": ("os.fdopen(1, 'w').close()\nprint('x')", "OSError: [Errno 9] Bad file descriptor"),
    "recursion": ("perturb(images, attack)", "RecursionError: maximum recursion depth exceeded"),
    "deep": ("raise ValueError('x' * 10**6)", "ValueError: xxx"),
    "crash": ("ctypes.string_at(0)", "its process was ended by SIGSEGV"),
    "abort of a library": ("ctypes.CDLL(None).abort()", "its process was ended by SIGABRT"),
    "exit of a library": ("ctypes.CDLL(None).exit(0)", "its process ended with exit status 0"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL, perhaps for want of memory"),
    "memory": ("np.ones(2**45)", "Unable to allocate"),
}
"""Name -> what it does, and what its cell says of it."""
HARMLESS = {
    "prints": "print('said'); os.write(1, b'said\\n'); os.system('echo said'); print('said', file=sys.__stdout__)",
    "closes streams": "sys.stdout.close(); sys.stderr.close()",
    "closes 1 below": "os.fdopen(1, 'w').close()",
    "closes 2 below": "os.fdopen(2, 'w').close(); print('x')",
    "close 1": "os.close(1)",
    "close 2": "os.close(2)",
    "dup2": "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
    "its own": "os.close(os.open(os.devnull, os.O_RDONLY)); a, b = os.pipe(); os.dup2(a, b); os.closerange(b, b + 1)",
    "forks": "os.fork() or os._exit(0)",
    "comes back twice": "os.fork()",
    "moves": "os.chdir('/')",
    "a program": "subprocess.run(['true'], check=True)",
    "prints at last": "print('at last')",
}
"""Name -> what it does in a process of its own, where nothing is the command's."""
HEAD = "import ctypes, os, signal, subprocess, sys, numpy as np\n\n\ndef perturb(images, attack):\n    match attack:\n"


def probe(attacks: dict[str, str]) -> str:
    cases = (f"case {name!r}:\n{indent(body, '    ')}\n" for name, body in attacks.items())
    return HEAD + indent("".join(cases), " " * 8) + "    return images\n"


def test_what_a_probe_does_is_its_cells_error_and_json_stays_json(workplace: Path) -> None:
    (workplace / "perturb.py").write_text(probe({name: body for name, (body, _) in ATTACKS.items()} | HARMLESS))
    attacks = json.dumps([*ATTACKS, *HARMLESS])
    make_study(workplace, probes=f"lowpass.cutoff = 0.3\nperturb = {{file = 'perturb.py', attack = {attacks}}}")
    # A relative path, so that a probe that moves elsewhere would be noticed.
    answer = bandlens("run", "study.toml", "--db", "results.duckdb", "--format", "json", cwd=workplace)
    summary = json.loads(answer.stdout)
    assert answer.returncode == 1
    assert answer.stderr.count("said\n") >= 4
    assert "at last\n" in answer.stderr
    assert "Traceback" not in answer.stderr
    failed = {failure["cell"].partition("attack=")[2]: failure["error"] for failure in summary["failed"]}
    assert failed.keys() == ATTACKS.keys()
    for name, (_, message) in ATTACKS.items():
        assert failed[name].startswith("probe perturb failed: "), name
        assert message in failed[name], name
        assert is_one_line(failed[name]), name
    stored = ask(workplace / "results.duckdb", "SELECT probe, n, count(*) FROM accuracy GROUP BY ALL ORDER BY ALL")
    assert stored == [("clean", 20, 1), ("lowpass", 20, 1), ("perturb", 20, len(HARMLESS))]


CRASHES = """
import ctypes
def crashes(images, at, index):
    return ctypes.string_at(0) if index == at else images
"""


def test_a_crash_at_any_image_is_the_error_of_its_cell_alone(workplace: Path) -> None:
    (workplace / "crashes.py").write_text(CRASHES)
    study = make_study(workplace, probes="crashes = {file = 'crashes.py', at = [0, 17, -1]}\nlowpass.cutoff = 0.3")
    database = workplace / "results.duckdb"
    answer = bandlens("run", study, "--db", database, "--format", "json")
    assert answer.returncode == 1
    errors = {failure["cell"].partition("at=")[2]: failure["error"] for failure in json.loads(answer.stdout)["failed"]}
    assert errors == dict.fromkeys(["0", "17"], "probe crashes failed: its process was ended by SIGSEGV")
    stored = ask(database, "SELECT probe, n FROM accuracy ORDER BY ALL")
    assert stored == [("clean", 20), ("crashes", 20), ("lowpass", 20)]


AT_LOAD = {
    "exit": ("os._exit(0)", "its process ended with exit status 0"),
    "abort": ("os.abort()", "its process was ended by SIGABRT"),
    "signal": ("os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)", "its process was ended by SIGSEGV"),
    "crash": ("ctypes.string_at(0)", "its process was ended by SIGSEGV"),
    "sys.exit": ("sys.exit(0)", "SystemExit: 0"),
    "generator": ("raise GeneratorExit", "GeneratorExit:"),
    "loop": ("while True: pass", "it takes more than 1 s"),
}
"""Name -> what a file does as it is loaded, and what the command says of it."""


@pytest.mark.parametrize("words", [["plan"], ["run"], ["probes", "preview"], ["probes", "list"]], ids=" ".join)
@pytest.mark.parametrize(("body", "message"), AT_LOAD.values(), ids=AT_LOAD)
def test_what_a_file_does_when_it_is_loaded_is_one_line(
    workplace: Path, command: Command, monkeypatch: pytest.MonkeyPatch, words: list[str], body: str, message: str
) -> None:
    if "1 s" in message:
        monkeypatch.setattr(user_function, "LOAD_SECONDS", 1)
    (workplace / "mine.py").write_text(
        f"import ctypes, os, signal, sys, time\n{body}\ndef mine(images):\n    return images\n"
    )
    study = make_study(workplace, probes="mine.file = 'mine.py'")
    if words[0] == "probes":
        Image.new("RGB", (300, 300)).save(workplace / "photo.png")
        photograph = [workplace / "photo.png"] if words[1] == "preview" else []
        answer = command(*words, *photograph, "--study", study)
    else:
        answer = command(*words, study, "--db", workplace / "results.duckdb")
    line = f"bandlens: probe mine: {workplace / 'mine.py'} does not load: {message}"
    assert answer == (Answer(2, "", f"{line}\n"))
    assert not (workplace / "results.duckdb").exists()


def test_what_a_file_prints_as_it_is_loaded_goes_to_standard_error(workplace: Path) -> None:
    (workplace / "mine.py").write_text("import os\nprint('said')\nos.abort()\n")
    study = make_study(workplace, probes="mine.file = 'mine.py'")
    answer = bandlens("plan", study, "--db", workplace / "results.duckdb", "--format", "json")
    assert (answer.returncode, answer.stdout) == (2, "")
    printed, line = answer.stderr.splitlines()
    assert printed == "said"
    assert line == f"bandlens: probe mine: {workplace / 'mine.py'} does not load: its process was ended by SIGABRT"


def test_output_that_was_closed_before_stays_closed(workplace: Path) -> None:
    """Its number may then be the database's."""
    (workplace / "mine.py").write_text("def mine(images):\n    print('said')\n    return images\n")
    study = make_study(workplace, probes="mine.file = 'mine.py'")
    command = [sys.executable, "-P", "-m", "bandlens", "run", str(study), "--db", str(workplace / "results.duckdb")]
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&-', "sh", *command], timeout=LIMIT_SECONDS, check=True)
    stored = ask(workplace / "results.duckdb", "SELECT probe, n FROM accuracy ORDER BY ALL")
    assert stored == [("clean", 20), ("mine", 20)]
