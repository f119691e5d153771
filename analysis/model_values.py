"""The models that are correlated: their values as arrays (variables, models), NaN where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..errors import StoreError
from .coefficients import Floats
from .resampling import Spread

Index = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Models:
    """n models with a biases x, b groups y, and the variable z that is given in a partial correlation."""

    biases: Sequence[str]
    groups: Sequence[str]
    x: Floats
    y: Floats
    x_spread: Spread
    y_spread: Spread
    given: str | None
    z: Floats | None
    category: NDArray[Any]

    @property
    def n(self) -> int:
        return len(self.category)

    @property
    def z_there(self) -> Mask:
        return np.zeros(self.n, bool) if self.z is None else ~np.isnan(self.z)

    @property
    def over_images(self) -> Mask:
        """(a, b): pairs of which one has intervals of its own."""
        return np.asarray(self.x_spread.known[:, None] | self.y_spread.known[None, :])

    def part(self, there: Mask, of_x: Index, of_y: Index) -> Models:
        """Some of the models, biases and groups."""
        here_x, here_y = np.ix_(of_x, np.flatnonzero(there)), np.ix_(of_y, np.flatnonzero(there))
        return Models(
            [self.biases[i] for i in of_x],
            [self.groups[i] for i in of_y],
            self.x[here_x],
            self.y[here_y],
            Spread(self.x_spread.down[here_x], self.x_spread.up[here_x]),
            Spread(self.y_spread.down[here_y], self.y_spread.up[here_y]),
            self.given,
            None if self.z is None else self.z[there],
            self.category[there],
        )


def read_models(frame: pl.DataFrame, biases: Sequence[str], groups: Sequence[str], given: str | None) -> Models:
    """The rows of a frame: category, and numeric columns; NAME_low and NAME_high are the ends of NAME's interval."""
    x, y = values_of(frame, biases), values_of(frame, groups)
    return Models(
        biases,
        groups,
        x,
        y,
        _spread(frame, biases, x),
        _spread(frame, groups, y),
        given,
        values_of(frame, [given])[0] if given else None,
        frame["category"].fill_null("none").to_numpy(),
    )


def values_of(frame: pl.DataFrame, names: Sequence[str]) -> Floats:
    """Columns as (variables, models), NaN for what is no finite number. Raises StoreError for one that is not there."""
    absent = [name for name in dict.fromkeys(names) if name not in frame.columns]
    if absent:
        raise StoreError(f"correlation: no column {', '.join(absent)}; the frame has {', '.join(frame.columns)}")
    columns = [frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names]
    values = np.array(columns, dtype=np.float64).reshape(len(names), len(frame))
    return np.where(np.isfinite(values), values, np.nan)


def _spread(frame: pl.DataFrame, names: Sequence[str], values: Floats) -> Spread:
    """0 where a value has no interval."""
    sides = np.zeros((2, *values.shape))
    for row, name in enumerate(names):
        if {f"{name}_low", f"{name}_high"} <= set(frame.columns):
            low, high = values_of(frame, [f"{name}_low", f"{name}_high"])
            sides[:, row] = np.nan_to_num(np.maximum(0, [values[row] - low, high - values[row]]))
    return Spread(*sides)


def complete_blocks(x: Floats, y: Floats) -> Iterator[tuple[Mask, Index, Index]]:
    """(models, variables of x, variables of y) that are complete together; each pair of variables is in one block."""
    for x_there, of_x in _by_gaps(x):
        for y_there, of_y in _by_gaps(y):
            yield x_there & y_there, of_x, of_y


def _by_gaps(values: Floats) -> list[tuple[Mask, Index]]:
    """(models that are there, variables of which this holds) for each pattern of missing values."""
    patterns, of_variable = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    return [(pattern, np.flatnonzero(of_variable.ravel() == i)) for i, pattern in enumerate(patterns)]
