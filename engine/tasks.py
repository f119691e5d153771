"""Tasks: the missing parts of a study, as cells that are perturbed together over a range of images.

A task is independent of all others and gives the same rows wherever and whenever it runs. One process takes whole
groups; where tasks are ranges, any number of workers may take them in any order, and take one again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from ..core.records import Cell, Variant, digest_of
from ..probes.attacks import gradients_of
from ..probes.grid import Grid
from .backends.base import ENGINES

GRADIENT = 3
"""Forward passes that a gradient for the images costs, its own one included."""
MOST_PASSES = {"numpy": 2**11, "cupy": 2**22}
"""The most forward passes of a range, by the array module: one or two minutes of ResNet-50."""
MOST_CONDITIONS = 64
"""The most conditions of a range: a batch under all 1,985 waves of a map would take longer than a minute."""
TASKS_PER_WORKER = 8
"""The fewest tasks of a worker, where batches allow it: so that the last worker to end is not far behind."""


@dataclass(frozen=True)
class Task:
    """Cells of one image set, group of conditions and seed, over images [first, last)."""

    cells: tuple[Cell, ...]
    first: int
    last: int

    @cached_property
    def key(self) -> str:
        """The identity of the rows, which names the shard that holds them."""
        return digest_of([cell.key for cell in self.cells], self.first, self.last - self.first)

    @property
    def attack(self) -> bool:
        """Whether a network is needed to make its images; the task is then of one cell."""
        return self.cells[0].condition.facts.attack

    @property
    def variants(self) -> list[Variant]:
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def predictions(self) -> int:
        return len(self.cells) * (self.last - self.first)

    def limited_to(self, cells: Sequence[Cell]) -> Task:
        """The task of the same images for some of the cells."""
        return replace(self, cells=tuple(cells))

    def __str__(self) -> str:
        more = f" and {len(self.cells) - 1} more cells" if len(self.cells) > 1 else ""
        return f"{self.cells[0]}{more}, images {self.first} to {self.last - 1}"


def by_attack(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells that are perturbed for all checkpoints alike, and those that are attacked."""
    attacked = [cell for cell in cells if cell.condition.facts.attack]
    return [cell for cell in cells if not cell.condition.facts.attack], attacked


def passes(cell: Cell) -> int:
    """Forward passes that an image costs."""
    steps = int(cell.condition.number("steps") or 0) if cell.condition.facts.attack else 0
    return 1 + GRADIENT * steps


def gradients(cell: Cell) -> str:
    """The precision of the gradients of a cell that is attacked."""
    return gradients_of(cell.condition)


def whole_tasks(cells: Sequence[Cell], grid: Grid) -> Iterator[Task]:
    """A task for each group of the cells, over all images."""
    for group in _groups(cells, grid):
        yield Task(tuple(group), 0, group[0].image_set.count)


Lacks = Callable[[Cell, int, int], bool]
"""Whether a cell still lacks some of the images [first, last)."""


def tasks_of(cells: Sequence[Cell], grid: Grid, batch: int, workers: int, lacks: Lacks) -> Iterator[Task]:
    """The tasks, of a minute or less, that give what the cells lack: group by group, each in the order of its images.

    Their borders are multiples of the batch.
    """
    share = sum(passes(cell) * cell.image_set.count for cell in cells) // (workers * TASKS_PER_WORKER)
    for group in _groups(cells, grid):
        most = max(min(MOST_PASSES[ENGINES[group[0].variant.engine].arrays], share), 1)
        for few in _of_few_conditions(group):
            for members in _of_a_batch(few, batch, most):
                yield from _ranges(members, batch, most, lacks)


def _groups(cells: Sequence[Cell], grid: Grid) -> Iterator[list[Cell]]:
    """The cells that are perturbed together; each one that is attacked by itself."""
    perturbed, attacked = by_attack(cells)
    for digest in dict.fromkeys(cell.image_set.digest for cell in perturbed):
        cells_of_set = [cell for cell in perturbed if cell.image_set.digest == digest]
        for _, conditions in grid.groups(list(dict.fromkeys(cell.condition for cell in cells_of_set))):
            chosen = set(conditions)
            members = [cell for cell in cells_of_set if cell.condition in chosen]
            for seed in dict.fromkeys(cell.seed for cell in members):
                yield [cell for cell in members if cell.seed == seed]
    # Attacks come last, since they need the memory of the sessions, and one network after another.
    for variant in dict.fromkeys(cell.variant for cell in attacked):
        yield from ([cell] for cell in attacked if cell.variant == variant)


def _of_few_conditions(group: Sequence[Cell]) -> Iterator[list[Cell]]:
    conditions = list(dict.fromkeys(cell.condition for cell in group))
    for first in range(0, len(conditions), MOST_CONDITIONS):
        chosen = set(conditions[first : first + MOST_CONDITIONS])
        yield [cell for cell in group if cell.condition in chosen]


def _of_a_batch(group: Sequence[Cell], batch: int, most: int) -> Iterator[list[Cell]]:
    """The group, in pieces of some checkpoints each where a batch of all would be more than `most` passes."""
    by_variant: dict[Variant, list[Cell]] = {}
    for cell in group:
        by_variant.setdefault(cell.variant, []).append(cell)
    each = batch * sum(passes(cell) for cell in next(iter(by_variant.values())))
    size = max(most // each, 1)
    for _, piece in groupby(enumerate(by_variant.values()), lambda numbered: numbered[0] // size):
        chosen = {cell for _, cells in piece for cell in cells}
        yield [cell for cell in group if cell in chosen]


def _ranges(cells: Sequence[Cell], batch: int, most: int, lacks: Lacks) -> Iterator[Task]:
    size = max(most // (batch * sum(passes(cell) for cell in cells)), 1) * batch
    count = cells[0].image_set.count
    for first in range(0, count, size):
        last = min(first + size, count)
        if lacking := [cell for cell in cells if lacks(cell, first, last)]:
            yield Task(tuple(lacking), first, last)
