"""A crash of an earlier run, as the next one learns of it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from bandlens.app.study.crashes import note_crashes, read_crashes
from bandlens.core.files import HOST
from bandlens.core.user_functions import crash_notes

DUMP = """{digest}
Fatal Python error: Segmentation fault

Thread 0x00007f7302b43740 (most recent call first):
  File "/elsewhere/other.py", line 9 in other

Current thread 0x00007f7302b436c0 (most recent call first):
  File "{library}", line 519 in string_at
  File "/home/me/crashes.py", line 4 in crashes
  File "{package}/core/user_functions.py", line 126 in __call__

Extension modules: numpy.core._multiarray_umath (total: 1)
"""
NOBODY = 2**22 + 1
"""A number that no process has."""


def test_a_crash_is_read_once(tmp_path: Path) -> None:
    package = Path(__file__).parents[4]
    words = DUMP.format(digest="a" * 64, library=ctypes.__file__, package=package)
    file = tmp_path / f".r.duckdb.crash.{HOST}.{NOBODY}.txt"
    file.write_text(words)
    line = "it ended an earlier run: Segmentation fault in crashes.py, line 4; mend it, or run with --devices, "
    assert read_crashes(tmp_path / "s.duckdb") == {}
    crashes = read_crashes(tmp_path / "r.duckdb")
    assert crashes.keys() == {"a" * 64}
    assert crashes["a" * 64].startswith(line)
    assert not file.exists()
    file.write_text(f"{'a' * 64}\n")  # a process that was killed leaves this
    assert read_crashes(tmp_path / "r.duckdb") == {}
    assert not file.exists()


def test_a_run_that_goes_on_is_let_be_and_leaves_nothing(tmp_path: Path) -> None:
    with note_crashes(tmp_path / "r.duckdb"):
        for digest in ("a" * 64, "b" * 64):
            crash_notes[-1](digest)
        [file] = tmp_path.iterdir()
        assert file.read_text() == "b" * 64 + "\n"
        assert read_crashes(tmp_path / "r.duckdb") == {}
        assert file.exists()
    assert (list(tmp_path.iterdir()), crash_notes) == ([], [])
