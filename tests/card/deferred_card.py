"""A card that lies in wait: work is queued by stream, and done as late as may be, in an order that a seed draws.

Any order is drawn that streams, events and synchronization allow, and no other: what is right on it does not depend on
luck, and a wait that is missing is found out under some seed. Memory that nobody holds any more is overwritten, and
handed out again, while work may still be at it. Work may have a duration: each stream then has a time, as if the card
did the work of all streams side by side. Without a seed, work is done when it is asked for. Errors are sticky: once
work has raised a CudaError, so does every call.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

ROUND = 512
"""CuPy's pool hands out multiples of so many bytes."""
POISON = 0xFF
"""The value of every byte that nobody has written: NaN in float32, and out of reach as an index."""


class CudaError(RuntimeError):
    """CuPy's CUDARuntimeError, by its module and base."""

    __module__ = "cupy_backends.cuda.api.runtime"


class DeferredCard:
    """An array module as far as `engine.device.streams` uses it; `ask` stands for the start of a kernel."""

    def __init__(self, seed: int | None = None) -> None:
        self.waits = seed is not None
        self.random = random.Random(seed)
        self.lock = threading.RLock()
        self.streams: list[DeferredStream] = []
        self.entered = threading.local()
        self.lost: CudaError | None = None
        """The first error of its work."""
        self.null = DeferredStream(self)
        self.cuda = SimpleNamespace(Stream=self.stream, get_current_stream=self.current)

    def check(self) -> None:
        """Every call of CUDA does this first: CudaError once the card is lost."""
        if self.lost:
            raise CudaError(f"{self.lost} (sticky)")

    def stream(self, non_blocking: bool) -> DeferredStream:
        self.check()
        assert non_blocking, "another one would wait for the null stream"
        return DeferredStream(self)

    def current(self) -> DeferredStream:
        entered: list[DeferredStream] = getattr(self.entered, "streams", [])
        return entered[-1] if entered else self.null

    def ask(self, work: Callable[[], None], seconds: float = 0.0) -> None:
        """Put work of this thread into its current stream."""
        self.current().put(work, seconds)

    def step(self) -> None:
        """Do one thing that some stream may do now."""
        able = [stream for stream in self.streams if stream.queue and stream.able()]
        [stream] = self.random.choices(able, [stream.haste for stream in able])
        stream.queue.popleft()()

    def until(self, is_done: Callable[[], bool]) -> None:
        with self.lock:
            while not is_done():
                self.check()
                self.step()

    def drain(self) -> None:
        """Do all that was ever asked for."""
        for stream in self.streams:
            stream.synchronize()


class Event:
    def __init__(self, card: DeferredCard) -> None:
        self.card = card
        self.reached = False
        self.time = 0.0
        """The second at which it was reached, where the card counts time."""

    def synchronize(self) -> None:
        self.card.until(lambda: self.reached)


class DeferredStream:
    def __init__(self, card: DeferredCard) -> None:
        self.card = card
        self.ptr = id(self)
        self.queue: deque[Task | Wait] = deque()
        self.captured: list[tuple[Callable[[], None], float]] | None = None
        self.freed: list[NDArray[np.uint8]] = []
        """Memory that was allocated in this stream, and that nobody holds any more."""
        self.time = 0.0
        """The second at which its latest work was done."""
        self.haste = 10 ** card.random.uniform(-3, 3)
        """A factor: its work is done so much sooner than that of others."""
        STREAMS[self.ptr] = self
        with card.lock:
            card.streams.append(self)

    def put(self, work: Callable[[], None], seconds: float = 0.0) -> None:
        with self.card.lock:
            self.card.check()
            if self.captured is None:
                self.queue.append(Task(self, work, seconds))
                if not self.card.waits:
                    self.queue.popleft()()
            else:
                self.captured.append((work, seconds))

    def able(self) -> bool:
        while self.queue and isinstance(self.queue[0], Wait) and self.queue[0].event.reached:
            self.time = max(self.time, self.queue.popleft().event.time)  # type: ignore[union-attr]
        return bool(self.queue) and not isinstance(self.queue[0], Wait)

    def record(self) -> Event:
        event = Event(self.card)

        def reach() -> None:
            event.reached, event.time = True, self.time

        self.put(reach)
        return event

    def wait_event(self, event: Event) -> None:
        with self.card.lock:
            self.card.check()
            self.queue.append(Wait(event))
            self.able()

    def synchronize(self) -> None:
        self.card.check()
        if self.captured is not None:
            raise CudaError("cudaErrorStreamCaptureUnsupported")
        self.card.until(lambda: not (self.able() or self.queue))

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        work, self.captured = self.captured, None
        assert work, "nothing was asked for while capturing"
        return Graph(work)

    def __enter__(self) -> DeferredStream:
        self.card.entered.streams = [*getattr(self.card.entered, "streams", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        self.card.entered.streams.pop()


STREAMS: WeakValueDictionary[int, DeferredStream] = WeakValueDictionary()
"""Streams by the pointer that a library gets."""


@dataclass
class Task:
    """Work in a queue, and the seconds that it would take on a card."""

    stream: DeferredStream
    work: Callable[[], None]
    seconds: float

    def __call__(self) -> None:
        self.stream.time += self.seconds
        try:
            self.work()
        except CudaError as error:
            self.stream.card.lost = error
            raise


@dataclass
class Wait:
    """An entry of a queue: nothing behind it begins before the event."""

    event: Event

    def __call__(self) -> None:
        raise AssertionError("a stream is not able while it waits")


class Graph:
    """Work that was captured, to be asked for again."""

    recorded = launched = 0

    def __init__(self, work: Sequence[tuple[Callable[[], None], float]]) -> None:
        Graph.recorded += 1
        self.work = work

    def launch(self, stream: DeferredStream) -> None:
        Graph.launched += 1
        for step, seconds in self.work:
            stream.put(step, seconds)


class Memory:
    """Bytes on the card, as CuPy's pool hands them out.

    They go back to the stream in which they were allocated, and what is allocated there next may get them: that its
    work comes after all that was asked of the stream before is all that the pool warrants. Where the card does not
    wait, they are memory of the host's by themselves, so that sanitizers see their ends.
    """

    def __init__(self, card: DeferredCard, size: int) -> None:
        self.stream = card.current()
        with card.lock:
            self.bytes = self._take(-(-max(size, 1) // ROUND) * ROUND) if card.waits else np.empty(size, np.uint8)

    def _take(self, size: int) -> NDArray[np.uint8]:
        sizes = [len(free) for free in self.stream.freed]
        block_size = min((free for free in sizes if free >= size), default=None)
        if block_size is None:
            return np.full(size, POISON, np.uint8)
        equal = [place for place, free in enumerate(sizes) if free == block_size]
        free = self.stream.freed.pop(self.stream.card.random.choice(equal))
        if len(free) > size:
            self.stream.freed.append(free[size:])
        return free[:size]

    def __del__(self) -> None:
        with self.stream.card.lock:
            if self.stream.card.waits and Task:  # modules are empty as Python ends
                self.stream.queue.append(Task(self.stream, lambda memory=self.bytes: memory.fill(POISON), 0))
                self.stream.freed.append(self.bytes)
