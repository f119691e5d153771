"""Time limits for library calls that may never return."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar

from .errors import EngineError

T = TypeVar("T")

_stuck_threads: list[threading.Thread] = []


def has_stuck_call() -> bool:
    """Return whether a library is still executing a call that timed out. Such a library cannot be unloaded."""
    return any(thread.is_alive() for thread in _stuck_threads)


class TimedCalls:
    """Makes calls with a time limit, one after another in a separate thread.

    A call that times out is abandoned together with its thread, because Python cannot interrupt it, and later calls use
    a new thread. Otherwise the same thread is used for the lifetime of the process. This matters for Ray, whose
    processes are killed when the thread that started them ends.

    Args:
        seconds: Time limit of a call in seconds.
        message: Message of the EngineError after a timeout, in which `{seconds}` is replaced by the time limit.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._seconds, self._message = seconds, message
        self._start()

    def __call__(self, call: Callable[[], Any], seconds: float | None = None) -> Any:
        """Run a call and return its result, or raise its exception.

        Args:
            call: The function to call.
            seconds: Time limit in seconds. By default that of this object.

        Raises:
            EngineError: The call did not return in time.
        """
        seconds, answer = self._seconds if seconds is None else seconds, Future[Any]()
        self._requests.put((call, answer))
        if wait([answer], seconds).done:
            return answer.result()
        _stuck_threads.append(self._thread)
        self._requests.put(None)  # ends the abandoned thread if the call returns after all
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
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            answer.set_exception(error)


class Watchdog:
    """Ends the process with a message if a step of a job makes no progress for too long.

    Ending the process is the only way out: a thread that waits for a hung driver can neither be interrupted nor
    stopped.
    """

    def __init__(self, seconds: float, message: str) -> None:
        """Set the limits.

        Args:
            seconds: Maximum time without a sign of progress, in seconds.
            message: Message to print before the process ends, in which `{seconds}` is replaced by the limit.
        """
        self._seconds, self._message = seconds, message
        self._latest: float | None = None
        """Time of the latest sign of progress. None while no step is running."""

    def sign(self) -> None:
        """Report that the current step is making progress."""
        self._latest = time.monotonic()

    def watch(self, steps: Generator[T]) -> Iterator[T]:
        """Yield the items of `steps` and watch the time that each takes. Time that the caller uses does not count."""
        end = threading.Event()
        threading.Thread(target=self._look, args=[end], name="watchdog", daemon=True).start()
        try:
            with closing(steps):
                self.sign()
                for step in steps:
                    self._latest = None
                    yield step
                    self.sign()
        finally:
            end.set()

    def _look(self, end: threading.Event) -> None:
        while not end.wait(self._seconds / 10):
            latest = self._latest
            if latest is not None and time.monotonic() - latest > self._seconds:
                # `os.write` and `os._exit` need no lock, whereas a hung thread could hold the lock of `sys.stderr`.
                os.write(2, f"bandlens: {self._message.format(seconds=self._seconds)}\n".encode())
                os._exit(1)
