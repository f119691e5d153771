"""A photograph under every condition, as small pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...export.photographs import photograph_folder
from ...probes.grid import FAMILIES, KNOWN, PUBLISHED, Grid, make_grid
from ...records import Condition
from ..pictures.sheet import labelled_rows, perturbed, read_photograph
from .data import ReportData
from .sections import Section, Tile

SIDE, QUALITY = 132, 70
"""Pixels and JPEG quality of a tile: 52 tiles of noise take 300 KB."""
DEFAULT = "chelsea.png"


def contact_sheet(results: ReportData | None, photograph: Path | None) -> Section:
    """A row of tiles for each series of a probe; the published grid where there is no study."""
    file = photograph or photograph_folder() / DEFAULT
    grid = _grid(results)
    pictures = perturbed(read_photograph(file), grid, 0)
    rows = {
        title: [_tile(condition, label or title, pictures[condition]) for condition, label in labels.items()]
        for title, labels in labelled_rows(pictures)
    }
    grid_name = "the published grid" if results is None else "this study"
    photograph_name = photograph.name if photograph else "a cat by Stéfan van der Walt that scikit-image ships (CC0)"
    text = [f"The conditions of {grid_name}, on {photograph_name}. Noise is drawn with seed 0."]
    if len(pictures) < len(grid.conditions):
        text.append(f"{len(pictures):,} of {len(grid.conditions):,} conditions are shown.")
    text += _not_shown(results) if results else []
    return Section("conditions", "What the models saw", text, tiles=rows)


def _grid(results: ReportData | None) -> Grid:
    """The conditions of the study that come with bandlens and need no network."""
    if results is None or results.conditions.is_empty():
        return make_grid(PUBLISHED, Path())
    conditions: dict[Condition, None] = {}
    for probe, parameters in results.conditions.select("probe", "parameters").rows():
        if probe in FAMILIES:
            conditions |= dict.fromkeys(make_grid({probe: json.loads(parameters)}, Path()).conditions)
    return Grid(FAMILIES, tuple(conditions))


def _not_shown(results: ReportData) -> list[str]:
    """Lines on the conditions of the study that are not shown."""
    lines = []
    if own_probes := set(results.conditions["probe"]) - set(KNOWN):
        lines.append(f"Not shown, since the database keeps no code: your own {', '.join(sorted(own_probes))}.")
    if results.conditions["attack"].any():
        lines.append("Not shown, since each model has images of its own: attacks.")
    return lines


def _tile(condition: Condition, caption: str, pixels: NDArray[np.uint8]) -> Tile:
    picture = io.BytesIO()
    tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile.save(picture, "JPEG", quality=QUALITY, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(picture.getvalue()).decode()
    return Tile(source, caption, f"The photograph under {condition}")
