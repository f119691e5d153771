"""Calls into a library that may not come back from them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from .errors import EngineError

_lost: list[threading.Thread] = []


def stuck() -> bool:
    """Whether a library is still in a call that was given up: it cannot be unloaded."""
    return any(thread.is_alive() for thread in _lost)


class Calls:
    """Calls from a thread of its own, one after another; one that does not come back is given up.

    It is one thread, which lives as long as the process: Ray's processes die with the thread that started them.

    Args:
        seconds: in which a call has to come back.
        message: of the EngineError where it does not; `{seconds}` stands for how long that was.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message = seconds, message
        self._start()

    def __call__(self, call: Callable[[], Any], seconds: float | None = None) -> Any:
        """What the call gives or raises; EngineError where it takes more `seconds`."""
        seconds, answer = self._seconds if seconds is None else seconds, Future[Any]()
        self._asked.put((call, answer))
        if wait([answer], seconds).done:
            return answer.result()
        _lost.append(self._thread)
        self._asked.put(None)  # for the case that it comes back
        self._start()
        raise EngineError(self._message.format(seconds=seconds))

    def _start(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=[self._asked], name="calls", daemon=True)
        self._thread.start()


def _serve(asked: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while one := asked.get():
        call, answer = one
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it belongs to who asked
            answer.set_exception(error)
