"""Work that the GPU repeats batch after batch is captured at each address as a CUDA graph, and replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from ...core.untrusted import first_line
from ...export.plans.build import GRAPHS, gpu_settings
from ...probes.arrays import Array

MOST_GRAPHS = 16
"""CUDA graphs that a session keeps, one for each address that batches come from: more than a run has buffers."""

_log = logging.getLogger("bandlens")


class Replays:
    """The work of a session on a batch, an array of CuPy, which a graph knows by its address.

    The first time the work is asked for plainly, since libraries prepare themselves then, which no graph may hold.
    Where it cannot be captured, it is asked for plainly every time, and a line in the log of `bandlens` says so once.
    A GPU that has failed shows it then, since the plain work raises its error. BANDLENS_GPU_WITHOUT=graphs asks for
    plain work, and then there is no line.
    """

    def __init__(
        self, engine: str, work: Callable[[Array], None], capture: Callable[[Array], Callable[[], None]]
    ) -> None:
        """`work` asks for it; `capture` gives what replays it, and leaves the stream as it was if it raises."""
        self._engine, self._work, self._capture = engine, work, capture
        self._graphs: dict[int, Callable[[], None]] = {}
        self._prepared, self._can_capture = False, GRAPHS in gpu_settings()

    def __call__(self, batch: Array) -> None:
        """Ask for the work on the batch."""
        replay = self._graphs.get(batch.data.ptr)
        if replay is None and self._prepared and self._can_capture:
            replay = self._add_graph(batch)
        if replay is None:
            self._work(batch)
            self._prepared = True
        else:
            replay()

    def forget(self) -> None:
        """Drop all graphs: what they read or write has moved."""
        self._graphs.clear()
        self._prepared = False

    def _add_graph(self, batch: Array) -> Callable[[], None] | None:
        if len(self._graphs) == MOST_GRAPHS:
            # Some may still be at work: CUDA frees such a graph once it has ended (cuGraphExecDestroy).
            self._graphs.clear()
        try:
            replay = self._capture(batch)
        except Exception as error:  # noqa: BLE001 - libraries have many, and the plain work tells if the GPU is lost
            self._can_capture = False
            tell_plain(self._engine, first_line(error))
            return None
        self._graphs[batch.data.ptr] = replay
        return replay


@cache
def tell_plain(engine: str, reason: str) -> None:
    """Say once in a process that the engine's work is not replayed."""
    _log.warning("%s asks for its work batch by batch, since no CUDA graph can be captured: %s", engine, reason)
