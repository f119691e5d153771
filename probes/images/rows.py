"""Photographs to rows of pixels, several at a time, of which only a window is ever in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import ImageSetError
from ...core.progress import Advance
from ...core.threads import in_parallel
from .broken import BrokenImageError
from .decode import pillow_warnings
from .files import write_row, writing
from .options import How

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Photograph = tuple[int, str, "Callable[[], NDArray[np.uint8]]"]
"""A photograph's row, its path, and a function that gives its pixels, (3, size, size) uint8."""
Keep = Callable[[int, "NDArray[np.uint8]"], None]
"""Keeps the pixels of a row; any thread calls it."""


@contextmanager
def rows_of(file: Path) -> Iterator[Keep]:
    """Write pixels to their rows of `file`, which is made where there is none."""
    pixels_file = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)

    def keep(row: int, pixels: NDArray[np.uint8]) -> None:
        with writing(file):
            write_row(pixels_file, row, pixels)

    try:
        yield keep
    finally:
        os.close(pixels_file)


@contextmanager
def nowhere() -> Iterator[Keep]:
    """Keep no pixels."""
    yield lambda _row, _pixels: None


def hash_rows(
    photographs: Iterable[Photograph],
    keep: Keep,
    source: Path,
    how: How,
    advance: Advance,
) -> tuple[dict[int, str], dict[str, str]]:
    """Decode each photograph of `source` and keep its pixels.

    Returns the sha256 of the pixels by row, and the reason by path for those left out where `how` skips broken ones.
    Raises ImageSetError for the first broken one otherwise.
    """
    sha256s, skipped = {}, {}
    # Closing waits for the threads, which keep pixels.
    with pillow_warnings(), closing(in_parallel(partial(_hash_row, keep), photographs, how.workers)) as results:
        for row, path, result in results:
            if isinstance(result, str):
                sha256s[row] = result
            elif how.skip_broken:
                skipped[path] = str(result)
            else:
                raise ImageSetError(
                    f"{source}: '{path}' is broken ({result}); {result.advice}, or leave such out with --skip-broken"
                )
            advance(1)
    return sha256s, skipped


def _hash_row(keep: Keep, photograph: Photograph) -> tuple[int, str, str | BrokenImageError]:
    row, path, pixels_of = photograph
    try:
        pixels = pixels_of()
    except BrokenImageError as broken:
        return row, path, broken
    keep(row, pixels)
    return row, path, hashlib.sha256(pixels.data).hexdigest()
