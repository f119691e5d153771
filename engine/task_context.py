"""A workbench computes tasks: it keeps open sessions, an image set and the buffers of a run from one to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, Self

import numpy as np

from ..core.errors import BandlensError, DeviceError, EngineError
from ..core.jobs import Progress, silent
from ..core.records import Cell, Failed, SessionInfo, Variant
from ..probes.grid import Grid
from ..probes.images.image_set import ImageSet
from .backends.base import ENGINES, Session, arrays_of, open_attacker, open_session
from .device.devices import readiness
from .device.gpu_errors import first_error, gpu_errors
from .device.nvidia import card_state
from .device.streams import network_stream
from .run import RunResources, flush, make_resources, run
from .tasks import Outcome, Task, by_attack


def with_card_state(infos: Mapping[Variant, SessionInfo]) -> dict[Variant, SessionInfo]:
    """The same, with what the GPU is doing now where they are on one: that is asked in a thread which feeds no card."""
    on_gpu = any(ENGINES[variant.engine].arrays == "cupy" for variant in infos)
    state = card_state() if on_gpu else None
    card = None if state is None else json.dumps(asdict(state))
    return {variant: replace(info, card=card) for variant, info in infos.items()}


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
    sessions: dict[Variant, Session] = field(default_factory=dict, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _attacked: Variant | None = field(default=None, init=False)
    """The variant whose session, the only one, was opened for an attack."""
    errors: dict[Variant, str] = field(default_factory=dict, init=False)
    """The networks that their engine does not open, or that cannot be attacked, and their errors."""
    _resources: RunResources | None = field(default=None, init=False)

    def prepare(self, cells: Sequence[Cell], todo: Sequence[Cell], progress: Progress = silent) -> None:
        """Open what `todo` needs, of the cells of a study, before anything is recorded.

        A study that cannot run must not take the place of its last version in the views. A network that is refused is
        no reason to leave the rest out, but an engine is: EngineError, where one is not ready for attacks, or refuses
        all networks at one precision. Raises DeviceError, too.
        """
        perturbed, attacked = by_attack(todo)
        for engine in dict.fromkeys(cell.variant.engine for cell in attacked):
            if not readiness(engine).ready:
                raise EngineError(readiness(engine).line)
        variants = list(dict.fromkeys(cell.variant for cell in perturbed))
        with progress("opening", len(variants), "models") as advance:
            self.open(variants, advance)
        groups: dict[tuple[str, str], set[Variant]] = {}
        for variant in dict.fromkeys(cell.variant for cell in by_attack(cells)[0]):
            groups.setdefault((variant.engine, variant.precision), set()).add(variant)
        for members in groups.values():
            if self.errors.keys() >= members:
                raise EngineError(next(error for variant, error in self.errors.items() if variant in members))

    def open(
        self, variants: Iterable[Variant], advance: Callable[[], None] = lambda: None, attacked: bool = False
    ) -> None:
        """Open sessions that are not open yet, or those that attack; `advance` is called for each variant.

        A variant that its engine refuses is noted in `errors`, and the others are opened. Raises DeviceError.
        """
        for variant in variants:
            if variant not in self.sessions and variant not in self.errors:
                try:
                    with gpu_errors():
                        session = (open_attacker if attacked else open_session)(variant, self.batch, self.threads)
                        self.sessions[variant] = self._stack.enter_context(session)
                except DeviceError:
                    raise
                except BandlensError as error:
                    self.errors[variant] = str(error)
            advance()

    def compute(
        self,
        task: Task,
        starts: Mapping[str, int] | None = None,
        range_seconds: float = inf,
        progress: Callable[[int], None] = lambda _: None,
        last: int | None = None,
    ) -> Generator[list[Outcome]]:
        """Yield what `engine.run.run` does for the task's cells; a network that is refused fails its cells.

        Args:
            task: the task.
            starts: cell key -> number of its images that are done: it goes on from there.
            range_seconds: parts are yielded after about this time.
            progress: called with the number of predictions made since the last call.
            last: the image that ends the task, itself left out; all by default.

        Raises DeviceError when the device is lost or out of memory, and what image sets raise when they are opened.
        """
        starts, digest = starts or {}, task.cells[0].image_set.digest
        if self._resources and self._resources.image_set.info.digest != digest:
            self._resources = None
        attacked = task.variants[0] if task.attack else None
        if self._attacked != attacked:
            self.__exit__(None, None, None)  # on a GPU, others than CuPy can have the memory then
            self._attacked = attacked
        self.open(task.variants, attacked=task.attack)
        if failed := [Failed(cell, self.errors[cell.variant]) for cell in task.cells if cell.variant in self.errors]:
            yield list(failed)
            task = task.limited_to([cell for cell in task.cells if cell.variant not in self.errors])
        if not task.cells:
            return
        # An attacker takes images from the host's memory, and gives its logits there.
        xp = np if task.attack else arrays_of(task.cells[0].variant.engine)
        self._resources = self._resources or make_resources(xp, self.images(digest), self.sessions)
        cells = [(cell, starts.get(cell.key, 0)) for cell in task.cells]
        yield from run(cells, self.grid, self._resources, range_seconds, progress, last)

    def pending(self) -> list[Outcome]:
        """Give what is computed of the present task and not yet yielded; for another thread, once it is interrupted."""
        if self._resources is None:
            return []
        with network_stream(self._resources.xp):
            return flush(self._resources.xp, self._resources.works)

    def infos(self) -> dict[Variant, SessionInfo]:
        """The devices and software that the open sessions run on."""
        return {variant: session.info for variant, session in self.sessions.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        engines = {variant.engine for variant in self.sessions}
        self._resources = self._attacked = None
        self.sessions.clear()
        with first_error(error):
            self._stack.__exit__(kind, error, trace)
            for xp in {arrays_of(engine) for engine in engines} - {np}:
                xp.get_default_memory_pool().free_all_blocks()
