"""A child process ends in time, or with its parent, and its parent says how."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from made_up_results import python
from waiting import LIMIT_SECONDS, wait_until

from bandlens.app.cli.signals import MESSAGE
from bandlens.core.child_process import run_child
from bandlens.core.errors import ExportError

PROGRAMS = {
    "works": "(folder / 'out').write_text(text)",
    "refuses": "raise UsageError(f'{text} is refused')",
    "fails": "raise ValueError(text)",
    "crashes": "os.kill(os.getpid(), 11)",
    "hangs": """
(folder / 'pid').write_text(str(os.getpid()))
time.sleep(1000)
""",
    "fills the memory": """
try:
    with limit_memory(1 << 28):
        bytearray(1 << 32)
except MemoryError:
    (folder / 'out').write_bytes(bytes(1 << 29))
""",
}
"""Name -> the work of a child process with a folder and a text."""


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module's work; the module is called `child`."""
    lines = [
        "import os, time",
        "from bandlens.core.child_process import limit_memory, serve_parent",
        "from bandlens.core.errors import UsageError",
        "def work(folder, text):",
        *(f"    {line}" for line in PROGRAMS[request.param].splitlines()),
        "serve_parent(work)",
    ]
    (tmp_path / "child.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return str(request.param)


def test_a_parent_learns_how_its_child_ended(program: str, tmp_path: Path) -> None:
    ends: dict[str, tuple[type[Exception], str]] = {
        "refuses": (ExportError, "a file is refused"),
        "fails": (ChildProcessError, "ended with exit status 1"),
        "crashes": (ChildProcessError, "was ended by SIGSEGV"),
        "hangs": (TimeoutError, "takes more than 2 s"),
    }
    kind, message = ends.get(program, (None, ""))
    with nullcontext() if kind is None else pytest.raises(kind, match=f"^{message}$"):
        run_child(
            "child",
            tmp_path,
            "a file",
            timeout_s=2.0 if program == "hangs" else LIMIT_SECONDS,
            error_class=ExportError,
        )
    contents = {"works": b"a file", "fills the memory": bytes(1 << 29)}
    out = tmp_path / "out"
    assert (out.read_bytes() if out.exists() else None) == contents.get(program)


INTERRUPTED = """
import sys
from pathlib import Path
from bandlens.__main__ import main
from bandlens.app.cli import main as cli
from bandlens.core.child_process import run_child
def work():
    run_child("child", Path(sys.argv[1]), "a file", timeout_s=1000)
cli.main = work
main()
"""


@pytest.mark.parametrize("program", ["hangs"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_to_the_parent_ends_the_child(number: signal.Signals, program: str, tmp_path: Path) -> None:
    with subprocess.Popen(python(INTERRUPTED, tmp_path), stderr=subprocess.PIPE, text=True) as process:
        pid = tmp_path / "pid"
        wait_until(lambda: pid.exists() and pid.read_text(), process)
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert program == "hangs"
    assert (process.returncode, err) == ((-9, "") if number == signal.SIGKILL else (128 + number, f"{MESSAGE}\n"))
    wait_until(lambda: has_ended(int(pid.read_text())))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie, which not every container's first process collects."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("program", ["hangs"], indirect=True)
def test_an_interrupted_call_leaves_no_child(program: str, tmp_path: Path) -> None:
    """A notebook goes on after the interruption."""
    assert program == "hangs"
    pid = tmp_path / "pid"

    def interrupt() -> None:
        wait_until(lambda: pid.exists() and pid.read_text())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_child("child", tmp_path, "a file", timeout_s=LIMIT_SECONDS)
    thread.join()
    assert not Path(f"/proc/{pid.read_text()}").exists()


@pytest.mark.parametrize("program", ["works"], indirect=True)
def test_a_child_without_its_parent_does_nothing(program: str, tmp_path: Path) -> None:
    """Linux ends it with its parent only from its first steps on, and the parent may be gone by then."""
    assert program == "works"
    code = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-P', '-m', *sys.argv[1:]]).returncode)"
    process = subprocess.run(python(code, "child", os.getpid(), tmp_path, "a file"), timeout=LIMIT_SECONDS)
    assert process.returncode == 1
    assert not (tmp_path / "out").exists()
