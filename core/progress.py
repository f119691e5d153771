"""The progress of a long job: the job calls `advance` as it goes on; whoever started it decides what that shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Advance(Protocol):
    def __call__(self, amount: float = 1, /) -> None: ...


Progress = Callable[[str, float | None, str], AbstractContextManager[Advance]]
"""`with progress(what, total, unit) as advance`, then `advance(1)` after each."""


def silent(_what: str, _total: float | None, _unit: str) -> AbstractContextManager[Advance]:
    """Show no progress."""
    return nullcontext(lambda _amount=1, /: None)
