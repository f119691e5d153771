"""A photograph under every condition, as small pictures: one of the study's own where its image sets are at hand."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.errors import BandlensError
from ...core.records import Condition
from ...export.photographs import photograph_folder
from ...probes.grid import FAMILIES, KNOWN, PUBLISHED, Grid, make_grid
from ..recorded_images import find_sets
from ..sheets import labelled_rows, perturbed, read_photograph, stretched
from .data import ReportData
from .page import Section, Tile

SIDE, QUALITY = 132, 70
"""Pixels and JPEG quality of a tile: 52 tiles of noise take 300 KB."""
CAT = "chelsea.png"


def contact_sheet(results: ReportData | None) -> Section:
    """A row of tiles for each series of a probe; the published grid where there is no study."""
    grid, (pixels, name) = _grid(results), _photograph(results)
    pictures = perturbed(pixels, grid, 0)
    rows = {
        title: [_tile(condition, label or title, pictures[condition]) for condition, label in labels.items()]
        for title, labels in labelled_rows(pictures, pixels.shape[-1])
    }
    grid_name = "the published grid" if results is None else "this study"
    text = [
        f"The conditions of {grid_name}, on {name}. Noise is drawn with seed 0. A picture that would be nearly black "
        "is brightened, and its caption says by how much."
    ]
    if len(pictures) < len(grid.conditions):
        text.append(f"{len(pictures):,} of {len(grid.conditions):,} conditions are shown.")
    if results and (own_probes := set(results.conditions["probe"]) - set(KNOWN)):
        text.append(f"Not shown, since the database keeps no code: your own {', '.join(sorted(own_probes))}.")
    if results and results.conditions["attack"].any():
        text.append("Not shown, since each model has images of its own: attacks.")
    return Section("conditions", "What the models saw", text, tiles=rows)


def _photograph(results: ReportData | None) -> tuple[NDArray[np.uint8], str]:
    """(3, size, size) uint8 of the first of the study's images, or of a cat, and its name.

    Image sets are looked for beside the database. A study with a limit has some of the images of a set, so sets are
    recognized by name and by how their pixels were made.
    """
    if results:
        names = set(results.image_sets.select("name", "preprocessing").rows())
        for images in find_sets([results.path.parent]).values():
            if (images.info.name, images.info.preprocessing) not in names:
                continue
            try:
                return images.take(np.zeros(1, np.int64))[0], f"{images.paths[0]} of {images.info.name}"
            except BandlensError:  # photographs of an index may have moved
                continue
    return read_photograph(photograph_folder() / CAT), "a cat by Stéfan van der Walt that scikit-image ships (CC0)"


def _grid(results: ReportData | None) -> Grid:
    """The conditions of the study that come with bandlens and need no network."""
    if results is None or results.conditions.is_empty():
        return make_grid(PUBLISHED, Path())
    conditions: dict[Condition, None] = {}
    for probe, parameters in results.conditions.select("probe", "parameters").rows():
        if probe in FAMILIES:
            conditions |= dict.fromkeys(make_grid({probe: json.loads(parameters)}, Path()).conditions)
    return Grid(FAMILIES, tuple(conditions))


def _tile(condition: Condition, caption: str, pixels: NDArray[np.uint8]) -> Tile:
    picture = io.BytesIO()
    pixels, stretch = stretched(pixels)
    caption = ", ".join(filter(None, (caption, stretch)))
    tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile.save(picture, "JPEG", quality=QUALITY, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(picture.getvalue()).decode()
    return Tile(source, caption, f"The photograph under {condition}")
