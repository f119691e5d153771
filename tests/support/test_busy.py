from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from busy import load, repeat


def test_busy_processes_end_with_the_block() -> None:
    with load(2):
        spinning = [child for child in psutil.Process().children() if "while True: pass" in child.cmdline()]
        assert len(spinning) == 2
    assert psutil.wait_procs(spinning, timeout=60)[1] == []


def test_runs_are_counted_up_to_the_first_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "test_third.py"
    file.write_text(
        "from pathlib import Path\n"
        "def test_it():\n"
        "    log = Path(__file__).with_name('log')\n"
        "    log.open('a').write('x')\n"
        "    assert log.read_text() != 'xxx'\n"
    )
    words = [str(file), f"--rootdir={tmp_path}", "-c", "/dev/null"]
    assert repeat(words, 2) == 2
    assert repeat(words, 5) == 0
    assert "assert 'xxx' != 'xxx'" in capsys.readouterr().out
