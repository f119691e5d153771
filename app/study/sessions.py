"""The sessions of a study's networks, here, and the commits of what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ...analysis.database.store import Store
from ...core.errors import EngineError
from ...core.progress import Progress, silent
from ...core.records import Cell, Failed, Finished, SessionInfo, Variant
from ...engine.device.card_state import throttling
from ...engine.device.devices import readiness
from ...engine.tasks import by_attack
from ...engine.workbench import Workbench, with_card_state
from .resolve import Work


def make_workbench(work: Work) -> Workbench:
    """A workbench that computes tasks of the study in this process."""
    sets = {images.info.digest: images for images in work.image_sets}
    return Workbench(work.grid, work.study.batch, work.study.thread_count, sets.__getitem__)


def open_sessions(bench: Workbench, cells: Sequence[Cell], todo: Sequence[Cell], progress: Progress = silent) -> None:
    """Open what `todo` needs, of the cells of a study, before anything is recorded.

    A study that cannot run must not take the place of its last version in the views. A network that is refused is no
    reason to leave the rest out, but an engine is: EngineError.
    """
    perturbed, attacked = by_attack(todo)
    for engine in dict.fromkeys(cell.variant.engine for cell in attacked):
        if not readiness(engine).ready:
            raise EngineError(readiness(engine).line)
    variants = list(dict.fromkeys(cell.variant for cell in perturbed))
    with progress("opening", len(variants), "models") as opened:
        bench.open(variants, opened)
    bench.require_opened(dict.fromkeys(cell.variant for cell in by_attack(cells)[0]))


Commit = Callable[[Sequence[Finished | Failed], Mapping[Variant, SessionInfo]], None]
Completed = Callable[[Mapping[Variant, SessionInfo]], Mapping[Variant, SessionInfo]]


@contextmanager
def background_commits(
    store: Store, throttled: dict[str, None] | None = None, completed: Completed = with_card_state
) -> Iterator[Commit]:
    """`store.commit` in a thread of its own, so that the next range is computed meanwhile.

    There `completed` adds the state of a GPU to the sessions; warnings on it are added to `throttled`.
    Ranges are committed one after another, in their order. Where one fails, its error comes with the next range or at
    the end of the block, and nothing that comes after it is committed.
    """
    under_way: list[Future[None]] = []

    def wait() -> None:
        while under_way:
            under_way.pop().result()

    def commit(outcomes: Sequence[Finished | Failed], sessions: Mapping[Variant, SessionInfo]) -> None:
        wait()
        under_way.append(thread.submit(store_range, outcomes, sessions))

    def store_range(outcomes: Sequence[Finished | Failed], sessions: Mapping[Variant, SessionInfo]) -> None:
        infos = completed(sessions)
        store.commit(outcomes, infos)
        if throttled is not None:
            throttled.update(dict.fromkeys(filter(None, (throttling(info.card) for info in infos.values()))))

    with ThreadPoolExecutor(1, "commit") as thread:
        yield commit
        wait()
