"""Shared by the tests of hostile input: damaged files, programs with little memory, and what an answer may look like.

`--hypothesis-profile soak` tries thirty times as many examples as a usual run of the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import category

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from waiting import LIMIT_SECONDS

from bandlens.core.errors import BandlensError


def fuzz(examples: int) -> settings:
    """Settings for so many examples, or thirty times as many under the profile `soak`.

    Files of one example are overwritten by the next, so that fixtures may be shared.
    """
    times = settings().max_examples // settings.get_profile("ci").max_examples
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=times * examples, suppress_health_check=shared)


def refusal(call: Callable[[], object]) -> str | None:
    """The message of the call's BandlensError, one printable line, or None. Any other error is the test's failure."""
    message = None
    try:
        call()
    except BandlensError as error:
        message = str(error)  # asserted below: it may be None
    assert message is None or is_one_line(message)
    return message


def is_one_line(text: str) -> bool:
    return 0 < len(text) < 2010 and not any(category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") for sign in text)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with bytes changed, cut off, taken out, put in or repeated, here and there."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 64, 512]))
        change = draw(st.sampled_from(["set", "set", "flip", "cut", "remove", "insert", "repeat"]))
        if change == "cut":
            del data[at:]
        elif change == "remove":
            del data[at : at + length]
        elif change == "repeat":
            data[at:at] = data[at : at + length]
        elif change == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        else:
            new = draw(st.sampled_from([b"\x00", b"\xff", b"\x7f", b"\x80", b"0", b"9"])) * length
            data[at : at if change == "insert" else at + length] = new
    return bytes(data)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../x", "/etc/passwd", "a\nb", "\x1b[31m", "NaN", "", "x" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

LIMITED = """
import json, resource, sys, time
from bandlens.core.errors import BandlensError

def mapped():
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

def attempt(name, call):
    "Print how the call ended, after how much processor time, and how many MB it took more than any before."
    before, started = resident(), time.process_time()
    try:
        call()
        end = "done"
    except BandlensError as error:
        end = str(error)
    except BaseException as error:
        end = f"TRACEBACK {type(error).__name__}: {error}"
    print(json.dumps([name, end, time.process_time() - started, resident() - before]), flush=True)

def limit(megabytes):
    "What is mapped now, libraries and all, and so much more."
    resource.setrlimit(resource.RLIMIT_AS, (mapped() + (megabytes << 20),) * 2)

"""


Attempt = dict[str, Any]
"""`end`, `seconds` of processor time, and `megabytes` of one call in a limited program."""


def limited(code: str, *arguments: str | Path) -> dict[str, Attempt]:
    """Run a program that calls `limit` and then `attempt`; what each attempt came to, by name.

    The test fails where the program does not end by itself in time.
    """
    command = [sys.executable, "-P", "-c", LIMITED + code, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert process.returncode == 0, process.stderr[-2000:]
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    return {name: {"end": end, "seconds": seconds, "megabytes": megabytes} for name, end, seconds, megabytes in rows}


def assert_refused(attempt: Attempt, megabytes: int = 200) -> None:
    """It ended with one of our errors, soon, and with little memory."""
    assert attempt["end"] != "done", attempt
    assert not attempt["end"].startswith("TRACEBACK"), attempt
    assert is_one_line(attempt["end"]), attempt
    assert attempt["seconds"] < 20, attempt
    assert attempt["megabytes"] < megabytes, attempt
