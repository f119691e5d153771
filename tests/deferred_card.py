"""A card that lies in wait: work is queued by stream, and done as late as may be, in an order that a seed draws.

Any order is drawn that streams, events and synchronization allow, and no other: what is right on it does not depend on
luck, and a wait that is missing is found out under some seed.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace


class Event:
    reached = False


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

    def ask(self, work: Callable[[], None]) -> None:
        """What this thread asks of the card, in its current stream."""
        self.current().put(work)

    def step(self) -> None:
        """Do one thing that some stream may do now."""
        able = [stream for stream in self.streams if stream.able()]
        [chosen] = self.random.choices(able, [stream.haste for stream in able])
        chosen.queue.popleft()()


class DeferredStream:
    def __init__(self, card: DeferredCard) -> None:
        self.card = card
        self.queue: deque[Callable[[], None]] = deque()
        self.haste = 10 ** card.random.uniform(-2, 2)
        """How much sooner than others its work is done."""
        with card.lock:
            card.streams.append(self)

    def put(self, work: Callable[[], None]) -> None:
        with self.card.lock:
            self.queue.append(work)

    def able(self) -> bool:
        while self.queue and isinstance(self.queue[0], Wait) and self.queue[0].event.reached:
            self.queue.popleft()
        return bool(self.queue) and not isinstance(self.queue[0], Wait)

    def record(self) -> Event:
        event = Event()
        self.put(lambda: setattr(event, "reached", True))
        return event

    def wait_event(self, event: Event) -> None:
        self.put(Wait(event))

    def synchronize(self) -> None:
        with self.card.lock:
            while self.able() or self.queue:
                self.card.step()

    def __enter__(self) -> DeferredStream:
        self.card.entered.streams = [*getattr(self.card.entered, "streams", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        self.card.entered.streams.pop()


class Wait:
    """In a queue: nothing behind it begins before the event."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self) -> None:
        raise AssertionError("a stream is not able while it waits")
