"""Colours that colour-blind readers tell apart (Okabe & Ito 2008), and shapes, for models and their categories."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from ...core.protocol import CATEGORIES

OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
FEW = 7
"""The most models that have a colour and a shape each; more have those of their categories."""


def colors(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name -> (colour, shape); the study's categories keep theirs wherever they appear."""
    distinct = list(dict.fromkeys(names))
    study = {name: place for place, name in enumerate(CATEGORIES)}
    free = [place for place in range(len(OKABE_ITO)) if not any(study.get(name) == place for name in distinct)]
    places = {name: study.get(name) for name in distinct}
    for turn, name in enumerate(name for name in distinct if places[name] is None):
        places[name] = free[turn % len(free)] if free else turn % len(OKABE_ITO)
    return {name: (OKABE_ITO[place or 0], SHAPES[place or 0]) for name, place in places.items()}


def series_of(frame: pl.DataFrame) -> str:
    """The field that lines are coloured by: `model` where there are few in the column `checkpoint`, else `category`."""
    return "model" if frame["checkpoint"].n_unique() <= FEW else "category"
