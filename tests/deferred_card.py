"""A card that lies in wait: work is queued by stream, and done as late as may be, in an order that a seed draws.

Any order is drawn that streams, events and synchronization allow, and no other: what is right on it does not depend on
luck, and a wait that is missing is found out under some seed. Work may have a duration: each stream then has a time, as
if the card did the work of all streams side by side.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace


class Event:
    reached = False
    time = 0.0
    """When it was reached, where the card counts time."""


class DeferredCard:
    """An array module as far as `engine.device.streams` uses it; `ask` stands for the start of a kernel."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lock = threading.RLock()
        self.streams: list[DeferredStream] = []
        self.entered = threading.local()
        self.null = DeferredStream(self)
        self.cuda = SimpleNamespace(Stream=lambda **_: DeferredStream(self), get_current_stream=self.current)

    def current(self) -> DeferredStream:
        entered: list[DeferredStream] = getattr(self.entered, "streams", [])
        return entered[-1] if entered else self.null

    def ask(self, work: Callable[[], None], seconds: float = 0.0) -> None:
        """What this thread asks of the card, in its current stream."""
        self.current().put(work, seconds)

    def step(self) -> None:
        """Do one thing that some stream may do now."""
        able = [stream for stream in self.streams if stream.able()]
        [chosen] = self.random.choices(able, [stream.haste for stream in able])
        chosen.queue.popleft()()


class DeferredStream:
    def __init__(self, card: DeferredCard) -> None:
        self.card = card
        self.queue: deque[Task | Wait] = deque()
        self.time = 0.0
        """When what it has done so far was done."""
        self.haste = 10 ** card.random.uniform(-2, 2)
        """How much sooner than others its work is done."""
        with card.lock:
            card.streams.append(self)

    def put(self, work: Callable[[], None], seconds: float = 0.0) -> None:
        with self.card.lock:
            self.queue.append(Task(self, work, seconds))

    def able(self) -> bool:
        while self.queue and isinstance(self.queue[0], Wait) and self.queue[0].event.reached:
            self.time = max(self.time, self.queue.popleft().event.time)  # type: ignore[union-attr]
        return bool(self.queue) and not isinstance(self.queue[0], Wait)

    def record(self) -> Event:
        event = Event()

        def reach() -> None:
            event.reached, event.time = True, self.time

        self.put(reach)
        return event

    def wait_event(self, event: Event) -> None:
        with self.card.lock:
            self.queue.append(Wait(event))

    def synchronize(self) -> None:
        with self.card.lock:
            while self.able() or self.queue:
                self.card.step()

    def __enter__(self) -> DeferredStream:
        self.card.entered.streams = [*getattr(self.card.entered, "streams", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        self.card.entered.streams.pop()


@dataclass
class Task:
    """In a queue: work, and the seconds that it would take on a card."""

    stream: DeferredStream
    work: Callable[[], None]
    seconds: float

    def __call__(self) -> None:
        self.stream.time += self.seconds
        self.work()


@dataclass
class Wait:
    """In a queue: nothing behind it begins before the event."""

    event: Event

    def __call__(self) -> None:
        raise AssertionError("a stream is not able while it waits")
