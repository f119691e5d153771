"""A user's probe at work in a process of its own: whatever ends that is an error of the probe's cells.

It is started when it is first asked for images, and again after it has ended; `serve` has the other end.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ProbeError
from ..records import Condition
from .arrays import Array, to_numpy
from .family import Batch, Buffer, Family
from .serve import BatchMemory
from .source import ProbeSource
from .user import user_family

END_SECONDS = 10.0
"""In which a process whose pipes are closed ends by itself."""


def family_apart(name: str, source: ProbeSource, function: str | None = None) -> Family:
    """`user_family`, whose function is called elsewhere. The file is loaded here, too, to see what it takes."""
    family = user_family(name, source, function)
    return replace(family, perturb=_Apart(family, (name, source, function)).perturb)


class _Apart:
    """Perturbs for one probe, one condition of a batch after another."""

    def __init__(self, family: Family, given: tuple[Any, ...]) -> None:
        self._family, self._given = family, given
        self._process: _Process | None = None
        self._asking = threading.Lock()
        """Two runs may have the same probe."""

    def perturb(
        self, xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
    ) -> Iterator[tuple[Condition, Array]]:
        """See `family.Perturb`; ProbeError where the process ends, too."""
        host = replace(batch, pixels=to_numpy(batch.pixels), keys=to_numpy(batch.keys))
        for condition in conditions:
            out = buffer()
            with self._asking:
                process = self._process = self._process or _Process(self._given, self._family.version, xp is np)
                try:
                    out[...] = xp.asarray(process.images(host, condition))
                except (OSError, EOFError, pickle.UnpicklingError):
                    self._process = None
                    raise ProbeError(f"probe {condition.probe} failed: its process {process.fate()}") from None
            yield condition, out


class _Process:
    """Ends with the last reference to it."""

    def __init__(self, *first: Any) -> None:
        """`first` is what it has to know before it is asked: see `serve`."""
        file = _unnamed_file()
        self._memory = BatchMemory(file.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bandlens.probes.serve", str(file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[file.fileno()],
            start_new_session=True,  # Ctrl-C is for this process, with which it ends
        )
        weakref.finalize(self, _end, self._process, file)
        self._words: list[Any] = [(sys.path, *first)]
        """What it is still to be told."""

    def images(self, batch: Batch, condition: Condition) -> NDArray[np.float32]:
        """What the probe makes of a batch in the host's memory; to be copied before the next is asked for.

        Raises ProbeError; and OSError, EOFError or UnpicklingError where the process ends.
        """
        try:
            pixels, images = self._memory.arrays(batch.pixels.shape)
        except OSError as error:
            raise ProbeError(f"probe {condition.probe} failed: no memory for a batch: {error.strerror}") from error
        pixels[...] = batch.pixels
        self._words.append((images.shape, batch.keys, batch.positions, batch.seed, condition))
        asked, answered = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        while self._words:
            pickle.dump(self._words.pop(0), asked)
        asked.flush()
        if refused := pickle.load(answered):  # noqa: S301 - of our own program
            raise refused
        return images

    def fate(self) -> str:
        """What became of it, now that it answers no more."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._process.kill()
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit status {code}"
        name = next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
        return f"was ended by {name}{', perhaps for want of memory' if code == -signal.SIGKILL else ''}"


def _unnamed_file() -> IO[bytes]:
    """In memory, where the system has such files."""
    return os.fdopen(os.memfd_create("probe"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def _end(process: subprocess.Popen[bytes], file: IO[bytes]) -> None:
    process.kill()
    with suppress(BrokenPipeError):  # of a question that was never read
        process.communicate()
    file.close()
