"""Calls into a library that may not come back from them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from .errors import EngineError

_stuck_threads: list[threading.Thread] = []


def has_stuck_call() -> bool:
    """Whether a library is still in a call that was given up: it cannot be unloaded."""
    return any(thread.is_alive() for thread in _stuck_threads)


class TimedCalls:
    """Makes calls in a thread of its own, one after another; one that does not come back in time is given up.

    It is one thread, which lives as long as the process: Ray's processes die with the thread that started them.

    Args:
        seconds: the time in which a call has to come back.
        message: what the EngineError says where it does not; `{seconds}` stands for how long that was.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message = seconds, message
        self._start()

    def __call__(self, call: Callable[[], Any], seconds: float | None = None) -> Any:
        """Give what the call gives, or raise what it raises; EngineError where it takes more `seconds`."""
        seconds, answer = self._seconds if seconds is None else seconds, Future[Any]()
        self._requests.put((call, answer))
        if wait([answer], seconds).done:
            return answer.result()
        _stuck_threads.append(self._thread)
        self._requests.put(None)  # ends the thread if the call comes back after all
        self._start()
        raise EngineError(self._message.format(seconds=seconds))

    def _start(self) -> None:
        self._requests: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_answer, args=[self._requests], name="calls", daemon=True)
        self._thread.start()


def _answer(requests: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while request := requests.get():
        call, answer = request
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the thread that asked raises it
            answer.set_exception(error)
