"""Calls that do not come back are given up, and the rest goes on."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from bandlens.core.errors import EngineError
from bandlens.core.timeouts import TimedCalls, has_stuck_call

MESSAGE = "no answer for {seconds:.0f} s"


def test_a_call_gives_what_it_gives_and_raises_what_it_raises() -> None:
    calls = TimedCalls(60, MESSAGE)
    assert calls(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        calls(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="its own"):
        calls(fail)
    assert calls(threading.get_ident) == calls(threading.get_ident) != threading.get_ident()


def fail() -> None:
    raise TimeoutError("its own")


def test_an_answer_that_comes_as_the_time_is_over_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Future[int]):
        def result(self, timeout: float | None = None) -> int:
            value = super().result()
            if timeout is not None:
                raise TimeoutError
            return value

    monkeypatch.setattr("bandlens.core.timeouts.Future", Late)
    assert TimedCalls(60, MESSAGE)(lambda: 3) == 3


def test_a_call_that_does_not_come_back_is_given_up_and_the_next_is_answered() -> None:
    calls, end = TimedCalls(60, MESSAGE), threading.Event()
    with pytest.raises(EngineError, match="no answer for 0 s"):
        calls(end.wait, 0.05)
    assert has_stuck_call()
    assert calls(lambda: 3) == 3
    end.set()
