"""The progress of a long job: the job calls `advance` as it goes on; whoever started it decides what that shows.

What a thread waits for is named by `step`, so that progress and an interruption can say why nothing goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

SLOW_SECONDS = 60.0
"""Seconds after which a step is named."""


class Advance(Protocol):
    def __call__(self, amount: float = 1, /) -> None: ...


Progress = Callable[[str, float | None, str], AbstractContextManager[Advance]]
"""`with progress(what, total, unit) as advance`, then `advance(1)` after each."""


def silent(_what: str, _total: float | None, _unit: str) -> AbstractContextManager[Advance]:
    """Show no progress."""
    return nullcontext(lambda _amount=1, /: None)


_steps: dict[int, tuple[str, float]] = {}
"""The step of each thread that is in one, and when that began."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """The time in which this thread waits for something that may take any time, such as a user's function."""
    thread = threading.get_ident()
    outer_step = _steps.get(thread)
    _steps[thread] = (name, time.monotonic())
    try:
        yield
    finally:
        if outer_step:
            _steps[thread] = outer_step
        else:
            del _steps[thread]


def slow_step() -> str:
    """Words on a step that takes more than a minute; empty where there is none."""
    now = time.monotonic()
    slow = [(name, now - began) for name, began in list(_steps.values()) if now - began > SLOW_SECONDS]
    return f"{slow[0][0]} has been at work for {slow[0][1]:.0f} s" if slow else ""
