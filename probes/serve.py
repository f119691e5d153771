"""The process in which a user's probe works: `python -m bandlens.probes.serve MEMORY`.

The images lie in memory that both ends share, a file whose number is the argument. What is said goes as pickles: on
standard input first the path of imports, what `user_family` takes, the version that the family is to have, and whether
products of matrices are to have one thread; then, for each batch, its shape, keys, positions and seed, and a condition.
The answer on standard output is None, or the error. Both ends are the same program. It may end at any time.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import BandlensError, ProbeError
from ..records import Condition
from .arrays import Array
from .family import Batch, Perturb
from .user import user_family


class BatchMemory:
    """Memory for a batch, and for what is made of it."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._pixels, self._images = np.empty(0, np.uint8), np.empty(0, np.float32)

    def arrays(self, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Pixels and images of that shape, where they lie at both ends."""
        if shape != self._images.shape:
            count = prod(shape)
            os.truncate(self._file, 5 * count)
            memory = mmap.mmap(self._file, 5 * count)
            self._images = np.frombuffer(memory, np.float32, count).reshape(shape)
            self._pixels = np.frombuffer(memory, np.uint8, count, 4 * count).reshape(shape)
        return self._pixels, self._images


def main() -> None:
    asked, answered = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever else prints
    with suppress(OSError):  # no Linux
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # the first to go where memory is short
    parent = os.getppid()
    work = threading.Thread(target=_work, args=[asked, answered, BatchMemory(int(sys.argv[1]))], daemon=True)
    work.start()
    while work.is_alive():
        work.join(0.5)
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for what is at work


def _work(asked: IO[bytes], answered: IO[bytes], memory: BatchMemory) -> None:
    with suppress(EOFError):
        sys.path[:], given, version, alone = pickle.load(asked)  # noqa: S301 - of our own program
        perturb = _loaded(given, version)
        with threadpool_limits(1 if alone else None, "blas"):
            while True:
                shape, *of_images, condition = pickle.load(asked)  # noqa: S301
                pixels, images = memory.arrays(shape)
                try:
                    list(perturb(np, Batch(pixels, *of_images), [condition], lambda: images))  # noqa: B023
                    error = None
                except ProbeError as raised:
                    error = raised
                except Exception as raised:  # noqa: BLE001 - of our own, for want of memory for instance
                    error = ProbeError(f"probe {condition.probe} failed: {type(raised).__name__}: {raised}")
                pickle.dump(error, answered)
                answered.flush()


def _loaded(given: tuple[Any, ...], version: int) -> Perturb:
    """The function of the family; one that fails where there is no such family any more."""
    try:
        family = user_family(*given)
        if family.version != version:
            raise ProbeError(f"probe {family.name} was changed since the command began; run it again")
    except BandlensError as error:
        return partial(_refuse, str(error))
    return family.perturb


def _refuse(why: str, *_: object) -> Iterator[tuple[Condition, Array]]:
    raise ProbeError(why)


if __name__ == "__main__":
    main()
