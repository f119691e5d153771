"""Ctrl-C, SIGTERM and SIGHUP: one line from the first instruction on, and what was committed stays."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_results import python
from small import ask, make_study
from waiting import LIMIT_SECONDS, wait_until

from bandlens.engine.prefetch import COUNT

MESSAGE = "bandlens: interrupted; what was committed stays, run the same command to go on\n"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

AT_IMPORT = """
import os, sys
module, number = sys.argv[1:]
def hook(event, given):
    if event == "import" and given[0] == module:
        os.kill(os.getpid(), int(number))
sys.addaudithook(hook)
from bandlens.__main__ import main
sys.argv = ["bandlens", "sql", "FROM accuracy", "--db", "r.duckdb", "--format", "csv"]
main()
"""


@pytest.mark.parametrize("module", ["bandlens.app.cli.main", "duckdb"])
def test_ctrl_c_while_a_library_is_imported_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "r.duckdb").touch()
    result = subprocess.run(
        python(AT_IMPORT, module, int(signal.SIGINT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", MESSAGE)


IN_NATIVE_IMPORT = """
import os, signal, sys
from importlib.machinery import ExtensionFileLoader
from bandlens.__main__ import main
from bandlens.app.cli import main as cli
def strike(frame, event, argument):
    if frame.f_code.co_filename.endswith("enum.py"):
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)
load = ExtensionFileLoader.exec_module
def exec_module(loader, module):
    sys.setprofile(strike if module.__name__.startswith("onnx.") else None)
    load(loader, module)
    sys.setprofile(None)
ExtensionFileLoader.exec_module = exec_module
def work():
    import onnx
    print("imported", flush=True)
cli.main = work
main()
"""


def test_ctrl_c_while_a_module_in_cpp_is_initialized_is_one_line() -> None:
    """C++ that gets an exception there ends the process by SIGABRT."""
    result = subprocess.run(python(IN_NATIVE_IMPORT), capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", MESSAGE)


AT_THE_END = """
import atexit, os, time
from bandlens.__main__ import main
def end():
    os.kill(os.getpid(), NUMBER)
    time.sleep(1000)
atexit.register(end)
main()
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_a_finished_command_leaves_is_one_line(number: signal.Signals) -> None:
    code = AT_THE_END.replace("NUMBER", str(int(number)))
    result = subprocess.run(python(code, "--version"), capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout[:9], result.stderr) == (128 + number, "bandlens ", MESSAGE)


STUBBORN = """
import io, sys, time
from bandlens.app.cli import signals
class Slow(io.StringIO):
    def flush(self):
        time.sleep(0.2)
sys.stderr = Slow()  # one of the two threads that hear the signal may leave before the other has said why
signals.GRACE_SECONDS = 1000
signals.obey()
try:
    print("ready", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("first", flush=True)
    if sys.argv[1] == "in Python":
        while True:
            time.sleep(0.01)
    import duckdb
    duckdb.sql("SELECT count(*) FROM range(1000000000000) AS t(x) WHERE x * 7 % 13 = 5").fetchall()
"""


@pytest.mark.parametrize("where", ["in Python", "in a library"])
def test_a_second_signal_ends_at_once(where: str) -> None:
    words = python(STUBBORN, where)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, err) == (130, MESSAGE)


SLOW = """
import time
from pathlib import Path
def slow(image, index):
    if index == 12:
        Path(__file__).with_name("started").touch()
        time.sleep(3600)
    return image
"""
STORED = (
    r"bandlens: interrupted; (\d+) of 60 predictions are stored, and 0 that were computed are given away, run the .*"
)


def test_a_run_that_is_told_to_end_ends_soon_and_stores_what_is_computed(workplace: Path) -> None:
    """Though the main thread waits for a probe that would take an hour, and nothing of its group is committed yet."""
    (workplace / "slow.py").write_text(SLOW, encoding="utf-8")
    study = make_study(workplace, batch=1, probes="lowpass = {cutoff = 0.3}\nslow = {file = 'slow.py'}")
    database = workplace / "results.duckdb"
    words = [sys.executable, "-P", "-m", "bandlens", "run", str(study), "--db", str(database)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until((workplace / "started").exists, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")
    assert "Traceback" not in err
    stored = re.fullmatch(STORED, err.splitlines()[-1])
    assert stored is not None, err
    assert [(int(stored[1]),)] == ask(database, "SELECT count(*) FROM prediction")
    counts = (
        "SELECT probe, count(*) FROM prediction JOIN cell ON cell.id = cell JOIN condition ON condition.id = condition"
    )
    count_by_probe = dict(ask(database, f"{counts} GROUP BY ALL"))
    assert count_by_probe.pop("slow") in range(12 - COUNT, 13), "what is perturbed ahead may not be computed yet"
    assert count_by_probe == {"clean": 20, "lowpass": 20}
    hidden_files = [file.name for file in workplace.iterdir() if file.name.startswith(".")]
    notes = [".crash.", ".progress"]  # the next run removes them
    assert not [name for name in hidden_files if not any(note in name for note in notes)]


IGNORED = """
import signal
from bandlens.app.cli import signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signals.obey()
signal.raise_signal(signal.SIGHUP)
print("went on")
"""


def test_under_nohup_hanging_up_ends_nothing() -> None:
    result = subprocess.run(python(IGNORED), capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "went on\n", "")


UNREAD = """
import signal, sys, time
from bandlens.__main__ import main
from bandlens.app.cli import main as cli
def work():
    print("ready", flush=True)
    sys.stdin.read()
    signal.raise_signal(signal.SIGINT)
    time.sleep(1000)
cli.main = work
main()
"""


def test_a_signal_is_obeyed_where_nobody_reads_the_message() -> None:
    command = python(UNREAD)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.stderr.close()
        process.stdin.close()
        try:
            assert process.wait(LIMIT_SECONDS) == 130
        finally:
            process.kill()
