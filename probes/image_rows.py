"""Photographs to rows of pixels.npy, several at a time, of which only a window is ever in memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import ImageSetError, UsageError
from .arrays import processors
from .decode import BrokenImageError, Frame, pillow_warnings, planar
from .image_files import write_row
from .image_folder import writing

if TYPE_CHECKING:
    from PIL.Image import Image as Photo

T = TypeVar("T")
R = TypeVar("R")
Advance = Callable[[float], object]
Progress = Callable[[str, float | None, str], AbstractContextManager[Advance]]
"""`with progress(what, total, unit) as advance`, then `advance(1)` after each."""


def silent(_what: str, _total: float | None, _unit: str) -> AbstractContextManager[Advance]:
    """Show no progress."""
    return nullcontext(lambda _amount: None)


def write_rows(
    file: Path,
    source: Path,
    photos: Iterable[tuple[int, str, Callable[[], Photo]]],
    frame: Frame,
    *,
    workers: int | None,
    advance: Advance,
    skip_broken: bool = False,
) -> tuple[dict[int, str], dict[str, str]]:
    """Write each photograph of `source`, given as its row, its path and what decodes it, to its row of the new `file`.

    Returns the sha256 of the pixels by row, and the reason by path for those left out if `skip_broken`.
    Raises ImageSetError for the first broken one otherwise.
    """
    pixels_file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def write(photo: tuple[int, str, Callable[[], Photo]]) -> tuple[int, str, str | BrokenImageError]:
        row, path, decode = photo
        try:
            pixels = planar(decode(), frame)
        except BrokenImageError as broken:
            return row, path, broken
        with writing(file):
            write_row(pixels_file, row, pixels)
        return row, path, hashlib.sha256(pixels.data).hexdigest()

    sha256s, skipped = {}, {}
    try:
        # Closing waits for the threads, which write to the file.
        with pillow_warnings(), closing(in_parallel(write, photos, workers)) as results:
            for row, path, result in results:
                if isinstance(result, str):
                    sha256s[row] = result
                elif skip_broken:
                    skipped[path] = str(result)
                else:
                    raise ImageSetError(
                        f"{source}: '{path}' is broken ({result}); repair it, or leave such out with --skip-broken"
                    )
                advance(1)
        return sha256s, skipped
    finally:
        os.close(pixels_file)


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int | None) -> Generator[R]:
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
