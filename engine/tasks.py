"""Tasks: the missing parts of a study, as cells that are perturbed together.

A task is independent of all others and gives the same rows wherever and whenever it runs. A cell is in one task at a
time, so its images are computed in their order; workers share a group of cells by its conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..core.records import Cell, Failed, Finished, Variant
from ..probes.attacks import gradients_of
from ..probes.grid import Grid

Outcome = Finished | Failed
"""The predictions of a range of a cell's images, or the failure of the cell."""


@dataclass(frozen=True)
class Task:
    """Cells of one image set, group of conditions and seed."""

    cells: tuple[Cell, ...]

    @property
    def attack(self) -> bool:
        """Whether a network is needed to make its images; the task is then of one cell."""
        return self.cells[0].condition.facts.attack

    @property
    def variants(self) -> list[Variant]:
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    def limited_to(self, cells: Sequence[Cell]) -> Task:
        """The task for some of the cells."""
        return replace(self, cells=tuple(cells))

    def by_condition(self) -> list[Task]:
        """The task of each condition by itself."""
        return [
            self.limited_to([cell for cell in self.cells if cell.condition == condition])
            for condition in dict.fromkeys(cell.condition for cell in self.cells)
        ]

    def halves(self) -> list[Task]:
        """The task as two, or as it is where it has one cell: conditions apart first, since networks share images."""
        if len(conditions := list(dict.fromkeys(cell.condition for cell in self.cells))) > 1:
            first_half = set(conditions[: len(conditions) // 2])
            halves = [[cell for cell in self.cells if (cell.condition in first_half) == side] for side in (True, False)]
        else:
            middle = len(self.cells) // 2
            halves = [[*self.cells[:middle]], [*self.cells[middle:]]]
        return [self.limited_to(half) for half in halves if half]

    def __str__(self) -> str:
        rest = f" and {len(self.cells) - 1} more cells" if len(self.cells) > 1 else ""
        return f"{self.cells[0]}{rest}"


def by_attack(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells that are perturbed for all checkpoints alike, and those that are attacked."""
    attacked = [cell for cell in cells if cell.condition.facts.attack]
    return [cell for cell in cells if not cell.condition.facts.attack], attacked


def gradients(cell: Cell) -> str:
    """The precision of the gradients of a cell that is attacked."""
    return gradients_of(cell.condition)


def cells_together(cells: Sequence[Cell], grid: Grid) -> Iterator[list[Cell]]:
    """The cells of one image set by what is perturbed together: a group of conditions at one seed."""
    for _, conditions in grid.groups(list(dict.fromkeys(cell.condition for cell in cells))):
        condition_set = set(conditions)
        members = [cell for cell in cells if cell.condition in condition_set]
        for seed in dict.fromkeys(cell.seed for cell in members):
            yield [cell for cell in members if cell.seed == seed]


def whole_tasks(cells: Sequence[Cell], grid: Grid) -> Iterator[Task]:
    """A task for each group of the cells that are perturbed together; each attacked cell has its own.

    Attacks come last, since they need the memory of the sessions, and one network after another.
    """
    perturbed, attacked = by_attack(cells)
    for digest in dict.fromkeys(cell.image_set.digest for cell in perturbed):
        for members in cells_together([cell for cell in perturbed if cell.image_set.digest == digest], grid):
            yield Task(tuple(members))
    for variant in dict.fromkeys(cell.variant for cell in attacked):
        yield from (Task((cell,)) for cell in attacked if cell.variant == variant)
