"""Split a study's missing cells into tasks: groups of cells whose images are perturbed together.

Tasks are independent of each other, and a task gives the same rows wherever and whenever it runs. A cell belongs to
only one task at a time, so the images of a cell are computed in order. To use several workers, a group of cells is
split by condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..core.records import Cell, Failed, Finished, Variant
from ..probes.attacks import gradients_of
from ..probes.grid import Grid

Outcome = Finished | Failed
"""Predictions for a range of a cell's images, or the failure of the cell."""


@dataclass(frozen=True)
class Task:
    """Cells with the same image set, group of conditions and seed."""

    cells: tuple[Cell, ...]

    @property
    def attack(self) -> bool:
        """Whether the images are adversarial, so that a model is needed to make them.

        Such a task has exactly one cell.
        """
        return self.cells[0].condition.facts.attack

    @property
    def variants(self) -> list[Variant]:
        """The distinct variants of the cells, in order."""
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    def limited_to(self, cells: Sequence[Cell]) -> Task:
        """Return a task with only the given cells."""
        return replace(self, cells=tuple(cells))

    def by_condition(self) -> list[Task]:
        """Return one task per condition."""
        return [
            self.limited_to([cell for cell in self.cells if cell.condition == condition])
            for condition in dict.fromkeys(cell.condition for cell in self.cells)
        ]

    def halves(self) -> list[Task]:
        """Split the task in two. A task with a single cell is returned unchanged, as the only item.

        Conditions are separated first, because the models of one condition share the perturbed images.
        """
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
    """Split cells into those whose images are the same for all models, and those whose images are adversarial."""
    attacked = [cell for cell in cells if cell.condition.facts.attack]
    return [cell for cell in cells if not cell.condition.facts.attack], attacked


def gradients(cell: Cell) -> str:
    """Return the precision of the gradients of a cell that is attacked."""
    return gradients_of(cell.condition)


def cells_together(cells: Sequence[Cell], grid: Grid) -> Iterator[list[Cell]]:
    """Yield the cells of one image set that are perturbed together: one group of conditions at one seed."""
    for _, conditions in grid.groups(list(dict.fromkeys(cell.condition for cell in cells))):
        condition_set = set(conditions)
        members = [cell for cell in cells if cell.condition in condition_set]
        for seed in dict.fromkeys(cell.seed for cell in members):
            yield [cell for cell in members if cell.seed == seed]


def whole_tasks(cells: Sequence[Cell], grid: Grid) -> Iterator[Task]:
    """Yield one task for each group of cells that are perturbed together, and one for each attacked cell.

    Attacks come last, because they need the memory of all other sessions. They are ordered by model, so that each model
    is opened once.
    """
    perturbed, attacked = by_attack(cells)
    for digest in dict.fromkeys(cell.image_set.digest for cell in perturbed):
        for members in cells_together([cell for cell in perturbed if cell.image_set.digest == digest], grid):
            yield Task(tuple(members))
    for variant in dict.fromkeys(cell.variant for cell in attacked):
        yield from (Task((cell,)) for cell in attacked if cell.variant == variant)
