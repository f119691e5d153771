"""Compute tasks. Open sessions, the image set and the buffers are reused from one task to the next."""

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
    """Add the current state of the GPU (clocks, power, temperature) to the infos, if any variant runs on a GPU.

    Call this from a thread that does not launch GPU work, because the query would delay it.
    """
    on_gpu = any(ENGINES[variant.engine].arrays == "cupy" for variant in infos)
    state = card_state() if on_gpu else None
    card = None if state is None else json.dumps(asdict(state))
    return {variant: replace(info, card=card) for variant, info in infos.items()}


@dataclass(slots=True)
class Workbench:
    """Computes tasks one after another in this process. A context manager, which closes its sessions.

    An attack needs much memory. All other sessions are therefore closed before an attack, and only one attacked model
    is open at a time.
    """

    grid: Grid
    batch: int
    threads: int
    images: Callable[[str], ImageSet]
    """Function that returns the image set with a given digest."""
    sessions: dict[Variant, Session] = field(default_factory=dict, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _attacked: Variant | None = field(default=None, init=False)
    """The variant that is open for an attack. If there is one, its session is the only one."""
    errors: dict[Variant, str] = field(default_factory=dict, init=False)
    """Error message of each variant that its engine cannot open, or that cannot be attacked."""
    _resources: RunResources | None = field(default=None, init=False)

    def prepare(self, cells: Sequence[Cell], todo: Sequence[Cell], progress: Progress = silent) -> None:
        """Open what the cells in `todo` need, before anything is recorded.

        A study that cannot run must not replace its previous version in the views of the database. One model that
        cannot be opened does not stop the others.

        Args:
            cells: All cells of the study.
            todo: The cells that remain to be computed.
            progress: Reports the number of opened models.

        Raises:
            EngineError: If an engine is not ready for attacks, or cannot open any model at one precision.
            DeviceError: If the GPU fails or is out of memory.
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
        """Open the sessions that are not open yet.

        An error of a variant is stored in `errors`, and the other variants are still opened.

        Args:
            variants: The variants to open.
            advance: Called after each variant.
            attacked: Whether to open sessions that can compute attacks.

        Raises:
            DeviceError: If the GPU fails or is out of memory.
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
        """Run the cells of a task and yield the same outcomes as `engine.run.run`.

        The cells of a model that its engine cannot open are yielded as `Failed`.

        Args:
            task: The task to compute.
            starts: Number of images that have been computed before, by cell key. The cell continues there.
            range_seconds: Interval in seconds at which outcomes are yielded.
            progress: Called with the number of predictions since the last call.
            last: Index after the last image of the task. By default the number of images in the set.

        Raises:
            DeviceError: If the device is lost or out of memory.
            ImageSetError: If the image set cannot be opened.
        """
        starts, digest = starts or {}, task.cells[0].image_set.digest
        if self._resources and self._resources.image_set.info.digest != digest:
            self._resources = None
        attacked = task.variants[0] if task.attack else None
        if self._attacked != attacked:
            # Close all sessions, and return CuPy's pooled memory to the GPU for other libraries.
            self.__exit__(None, None, None)
            self._attacked = attacked
        self.open(task.variants, attacked=task.attack)
        if failed := [Failed(cell, self.errors[cell.variant]) for cell in task.cells if cell.variant in self.errors]:
            yield list(failed)
            task = task.limited_to([cell for cell in task.cells if cell.variant not in self.errors])
        if not task.cells:
            return
        # Attackers accept images in host memory and return their logits there.
        xp = np if task.attack else arrays_of(task.cells[0].variant.engine)
        self._resources = self._resources or make_resources(xp, self.images(digest), self.sessions)
        cells = [(cell, starts.get(cell.key, 0)) for cell in task.cells]
        yield from run(cells, self.grid, self._resources, range_seconds, progress, last)

    def pending(self) -> list[Outcome]:
        """Return the outcomes of the current task that have not been yielded yet.

        Another thread may call this after the run was interrupted.
        """
        if self._resources is None:
            return []
        with network_stream(self._resources.xp):
            return flush(self._resources.xp, self._resources.works)

    def infos(self) -> dict[Variant, SessionInfo]:
        """Return the device and the software versions of each open session."""
        return {variant: session.info for variant, session in self.sessions.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        engines = {variant.engine for variant in self.sessions}
        self._resources = self._attacked = None
        self.sessions.clear()
        with first_error(error):
            self._stack.__exit__(kind, error, trace)
            # CuPy keeps freed memory in its pool. Return it to the GPU, so that torch or TensorRT can allocate it.
            for xp in {arrays_of(engine) for engine in engines} - {np}:
                xp.get_default_memory_pool().free_all_blocks()
