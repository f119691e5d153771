"""A function of a user's: what it says of itself, and how what it does is told."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from own_probes import PIXELS, Write, run

from bandlens.core import jobs
from bandlens.core.custom.call import UserFunction, show_stack, user_function
from bandlens.core.errors import ProbeError, StoreError, UsageError

Load = Callable[..., UserFunction]


@pytest.fixture
def load(tmp_path: Path, write: Write) -> Load:
    def load(source: str, name: str = "mirror") -> UserFunction:
        return user_function(f"measure {name}", name, {"file": write(source).name}, tmp_path, "confidence", StoreError)

    return load


DEFAULTS = '''
from enum import IntEnum, StrEnum
import numpy as np
class Number(IntEnum):
    ONE = 1
class Text(StrEnum):
    A = "a"
def mirror(a=np.float64(0.5), b=Number.ONE, c=Text.A, d=True, e=(1, 2), *g: int, h: Text, **i):
    """The least sure of the right answers.

    More of it.
    """
'''


def test_a_function_is_described_without_the_classes_of_its_file(load: Load) -> None:
    function = load(DEFAULTS)
    assert function.title == "The least sure of the right answers."
    assert repr(function.parameters) == (
        "{'a': (0.5,), 'b': (1,), 'c': ('a',), 'd': (True,), 'e': ((1, 2),), '*g': (), 'h': (), '**i': ()}"
    )


RAISED = {
    "SystemExit": "SystemExit: enough",
    "KeyboardInterrupt": "KeyboardInterrupt: enough",
    "Own": "Own: enough",
    "Shy": "Shy",
}


CLASSES = """
class Own(BaseException):
    pass
class Shy(Exception):
    def __str__(self):
        raise ValueError
"""


@pytest.mark.parametrize(("error", "message"), RAISED.items())
def test_whatever_it_raises_is_one_line(tmp_path: Path, write: Write, error: str, message: str) -> None:
    """It is raised in a thread, where an interrupt cannot be the user's."""
    raised: list[BaseException] = []

    def attempt(source: str) -> None:
        write(source)
        try:
            run(tmp_path, {}, PIXELS)
        except BaseException as exception:  # noqa: BLE001
            raised.append(exception)

    for source in (
        f"{CLASSES}def mirror(images):\n    raise {error}('enough')\n",
        f"{CLASSES}raise {error}('enough')\n",
    ):
        thread = threading.Thread(target=attempt, args=(source,))
        thread.start()
        thread.join()
    assert [type(exception) for exception in raised] == [ProbeError, UsageError]
    assert str(raised[0]) == f"probe mirror failed: {message} (mine.py, line 8)"
    assert str(raised[1]) == f"probe mirror: {tmp_path / 'mine.py'} does not load: {message} (mine.py, line 7)"


def test_an_interrupt_in_the_main_thread_is_the_users(load: Load) -> None:
    function = load("def mirror():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt), function.at_work():
        function()


def test_the_line_is_the_deepest_one_of_the_users_code(load: Load, write: Write) -> None:
    write("import json\n\ndef parse(text):\n    return json.loads(text)\n", "pack/helper.py")
    function = load("from pack import helper\ndef mirror():\n    return helper.parse('{')\n")
    line = r"^measure mirror failed: JSONDecodeError: .* \(helper.py, line 4\)$"
    with pytest.raises(StoreError, match=line) as error, function.at_work():
        function()
    frames = []
    trace = error.value.__cause__.__traceback__ if error.value.__cause__ else None
    while trace:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[:3] == ["mirror", "parse", "loads"], "the stack begins in the user's code"


def test_the_stack_is_logged_where_all_is_to_be_shown(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    function = load("def mirror():\n    1 / 0\n")
    with pytest.raises(StoreError) as error, function.at_work():
        function()
    for level, expected in ((logging.INFO, False), (logging.DEBUG, True)):
        with caplog.at_level(level, "bandlens"):
            show_stack(error.value)
        assert ("1 / 0\n" in caplog.text) == expected


def test_other_threads_print_meanwhile_where_they_printed(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """One function is at work in two threads, which begin and end one after the other."""
    function = load(
        "def mirror(word, begun, go_on):\n    print(word)\n    begun.set()\n    go_on.wait()\n    print(word)\n"
    )
    calls = [(word, threading.Event(), threading.Event()) for word in ("a", "b")]

    def work(*call: object) -> None:
        with function.at_work():
            function(*call)

    threads = [threading.Thread(target=work, args=call) for call in calls]
    outer = sys.stdout
    for thread, (_, start, _) in zip(threads, calls, strict=True):
        thread.start()
        start.wait()
        print("result")
    for thread, (_, _, go_on) in zip(threads, calls, strict=True):
        go_on.set()
        thread.join()
        print("result")
    assert sys.stdout is outer
    assert capsys.readouterr() == ("result\n" * 4, "a\nb\na\nb\n")


def test_a_call_that_takes_long_is_named(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SLOW_SECONDS", -1)
    function = load("def mirror(slow_step):\n    return slow_step()\n")
    assert jobs.slow_step() == ""
    with function.at_work():
        assert function(jobs.slow_step) == "measure mirror has been at work for 0 s"
    assert jobs.slow_step() == ""


def test_a_crash_would_be_put_down_to_what_is_at_work(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("bandlens.core.custom.call.crash_notes", [notes.append])
    function = load("def mirror():\n    pass\n")
    for note in ("", "digest"):
        with function.at_work(note):
            function()
    assert notes == ["digest"]
