"""Threads of which one runs at a time: where one touches a queue, or asks the card for work, a seed draws who goes on.

In between nobody interrupts a thread, so that a seed stands for one order of all that they ask for.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

import pytest
from deferred_card import DeferredStream

SHARE = 0.1
"""The share of the seconds that a thread asks for, before which the others may go on."""


class Turns:
    """Turns among the thread that makes this and those that it starts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.changed = threading.Condition()
        self.standing: dict[threading.Thread, Callable[[], bool]] = {}
        """Threads that stand still, and whether they are able to go on."""
        self.turn: threading.Thread | None = threading.current_thread()
        """None once none was able to: all of them then go on, to their ends."""

    def next(self) -> None:
        with self.changed:
            able = [thread for thread, able in self.standing.items() if able()]
            self.turn = self.random.choice(able) if able and self.turn else None
            self.changed.notify_all()

    def until(self, able: Callable[[], bool]) -> None:
        """Let others go on, until it is this thread's turn and it is able to; Empty where that will never be."""
        with self.changed:
            self.standing[threading.current_thread()] = able
            self.next()
            self.wait()
        if not able():
            raise Empty

    def wait(self) -> None:
        me = threading.current_thread()
        with self.changed:
            self.changed.wait_for(lambda: self.turn in (me, None))
            del self.standing[me]


def draw_threads(monkeypatch: pytest.MonkeyPatch, module: ModuleType, seed: int) -> None:
    """The module's threads take turns with the one that calls this."""
    turns = Turns(seed)

    class Thread(threading.Thread):
        has_ended = False

        def start(self) -> None:
            turns.standing[self] = lambda: True
            super().start()

        def run(self) -> None:
            turns.wait()
            try:
                super().run()
            finally:
                self.has_ended = True
                turns.next()

        def join(self, timeout: float | None = None) -> None:
            turns.until(lambda: self.has_ended)
            super().join(timeout)

    class Queue(SimpleQueue):  # type: ignore[type-arg]
        def put(self, item: Any) -> None:  # type: ignore[override]
            super().put(item)
            turns.until(lambda: True)

        def get(self) -> Any:  # type: ignore[override]
            turns.until(lambda: not self.empty())
            return super().get()

    put = DeferredStream.put

    def interrupted(stream: DeferredStream, *work: Any) -> None:
        if turns.random.random() < SHARE:
            turns.until(lambda: True)
        put(stream, *work)

    monkeypatch.setattr(DeferredStream, "put", interrupted)
    monkeypatch.setattr(module, "Thread", Thread)
    monkeypatch.setattr(module, "SimpleQueue", Queue)
