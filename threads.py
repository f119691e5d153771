"""Work that threads share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .errors import UsageError
from .processors import processors

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Generator[R]:
    """`map` in threads, in order, at most a few items ahead; as many threads as processors by default."""
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers: at least 1 is needed")
    threads = workers or min(32, processors())
    window: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                window.append(pool.submit(work, item))
                if len(window) > 4 * threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()
