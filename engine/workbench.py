"""A workbench computes tasks: it keeps open sessions, an image set and the buffers of a run from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ..errors import BandlensError, DeviceError
from ..probes.grid import Grid
from ..probes.images.image_set import ImageSet
from ..records import Failed, SessionInfo, Variant
from .backends.base import Session, arrays_of, open_attacker, open_session
from .cell_progress import Outcome, Progress
from .run import RunResources, make_resources, run
from .tasks import Task

WHOLE = float("inf")
"""Seconds after which a part is yielded, where a task's rows come all at once."""


@dataclass(slots=True)
class Workbench:
    """Computes tasks one after another, here. A context manager, which closes its sessions.

    An attack needs the memory: all other sessions are closed before it, and one attacked network is open at a time.
    """

    grid: Grid
    batch: int
    threads: int
    images: Callable[[str], ImageSet]
    """A function that gives the image set of a digest. One at a time stays open: on a GPU it lies on the card."""
    here: Callable[[Variant], Variant] = lambda variant: variant
    """A function that gives a variant with the path of its file on this machine."""
    sessions: dict[Variant, Session] = field(default_factory=dict, init=False)
    _opened: ExitStack = field(default_factory=ExitStack, init=False)
    _attacked: Variant | None = field(default=None, init=False)
    """The variant that is attacked, where the only session was opened for an attack."""
    _broken: dict[Variant, str] = field(default_factory=dict, init=False)
    """The networks that cannot be attacked, and their errors."""
    _image_set: ImageSet | None = field(default=None, init=False)
    _resources: RunResources | None = field(default=None, init=False)

    def open(self, variants: Iterable[Variant], opened: Callable[[], None] = lambda: None) -> None:
        """Open sessions that are not open yet; `opened` is called for each variant."""
        for variant in variants:
            if variant not in self.sessions:
                session = open_session(self.here(variant), self.batch, self.threads)
                self.sessions[variant] = self._opened.enter_context(session)
            opened()

    def compute(
        self,
        task: Task,
        done: Mapping[str, int] | None = None,
        range_seconds: float = WHOLE,
        progress: Progress = lambda _: None,
    ) -> Iterator[list[Outcome]]:
        """Yield what `engine.run.run` does for the task's cells; a network that cannot be attacked fails its cells.

        Args:
            task: the task.
            done: cell key -> number of its images that are done: it goes on from there, or from the task's first.
            range_seconds: parts are yielded after about this time.
            progress: called with the number of predictions made since the last call.

        Raises DeviceError when the device is lost or out of memory, and what sessions and image sets raise when they
        are opened.
        """
        done = done or {}
        images = self._images_of(task)
        if task.attack:
            if error := self._open_attacked(task.variants[0]):
                yield [Failed(cell, error) for cell in task.cells]
                return
        else:
            if self._attacked:
                self.close()
            self.open(task.variants)
        # An attacker takes images from the host's memory, and gives its logits there.
        xp = np if task.attack else arrays_of(task.cells[0].variant.engine)
        self._resources = self._resources or make_resources(xp, images, self.sessions)
        cells = [(cell, max(task.first, done.get(cell.key, 0))) for cell in task.cells]
        yield from run(cells, self.grid, self._resources, range_seconds, progress, last=task.last)

    def infos(self) -> dict[Variant, SessionInfo]:
        """The devices and software that the open sessions run on."""
        return {variant: session.info for variant, session in self.sessions.items()}

    def _images_of(self, task: Task) -> ImageSet:
        digest = task.cells[0].image_set.digest
        if self._image_set is None or self._image_set.info.digest != digest:
            self._resources = None
            self._image_set = self.images(digest)
        return self._image_set

    def _open_attacked(self, variant: Variant) -> str | None:
        """Open the network alone; gives the error, where it cannot be attacked."""
        if self._attacked != variant and variant not in self._broken:
            self.close()
            try:
                session = open_attacker(self.here(variant), self.batch, self.threads)
                self.sessions[variant] = self._opened.enter_context(session)
                self._attacked = variant
            except DeviceError:
                raise
            except BandlensError as error:
                self._broken[variant] = str(error)
        return self._broken.get(variant)

    def close(self) -> None:
        """Close all sessions; the next task opens its own. On a GPU, others than CuPy can have their memory then."""
        modules = {arrays_of(variant.engine) for variant in self.sessions} - {np}
        self._resources = self._attacked = None
        self.sessions.clear()
        self._opened.close()
        for xp in modules:
            xp.get_default_memory_pool().free_all_blocks()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
