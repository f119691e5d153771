"""A photograph under every condition, as small pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...analysis.charts.style import words
from ...export.photographs import photograph_folder
from ...probes.grid import FAMILIES, PUBLISHED, Grid, make_grid
from ...records import Condition
from ..preview import perturbed, read_photograph
from .data import ReportData
from .sections import Section, Tile

SIDE, QUALITY = 132, 70
"""52 tiles of noise take 300 KB."""
DEFAULT = "chelsea.png"


def contact_sheet(results: ReportData | None, photograph: Path | None) -> Section:
    """A row of tiles for each probe; the published grid where there is no study."""
    file = photograph or photograph_folder() / DEFAULT
    grid, left_out = _grid(results)
    rows: dict[str, list[Tile]] = {}
    pictures = perturbed(read_photograph(file), grid, 0)
    for condition, pixels in pictures.items():
        rows.setdefault(_row(condition), []).append(_tile(condition, pixels))
    which = "the published grid" if results is None else "this study"
    whose = photograph.name if photograph else "a cat by Stéfan van der Walt that scikit-image ships (CC0)"
    text = [f"The conditions of {which}, on {whose}. Noise is drawn with seed 0."]
    if len(pictures) < len(grid.conditions):
        text.append(f"{len(pictures):,} of {len(grid.conditions):,} conditions are shown.")
    if left_out:
        text.append(f"Not shown, since the database keeps no code: your own {', '.join(left_out)}.")
    return Section("conditions", "What the models saw", text, tiles=rows)


def _grid(results: ReportData | None) -> tuple[Grid, list[str]]:
    """The conditions of the study that come with bandlens, and the names of probes that do not."""
    if results is None or results.conditions.is_empty():
        return make_grid(PUBLISHED, Path()), []
    known: dict[Condition, None] = {}
    probes = results.conditions["probe"].unique(maintain_order=True).to_list()
    for probe, text in results.conditions.select("probe", "parameters").rows():
        if probe in FAMILIES:
            known |= dict.fromkeys(make_grid({probe: json.loads(text)}, Path()).conditions)
    return Grid(FAMILIES, tuple(known)), [probe for probe in probes if probe not in FAMILIES]


def _row(condition: Condition) -> str:
    level = condition.number("noise_sd")
    if condition.probe == "clean" or level == 0:
        return "Nothing added or taken away"
    return words(condition.probe) + ("" if level is None else f", noise_sd {level:g}")


def _tile(condition: Condition, pixels: NDArray[np.uint8]) -> Tile:
    shown = [f"{name} {value}" for name, value in condition.parameters if name not in ("noise_sd", "draw")]
    caption = ", ".join(shown) or words(condition.probe)
    picture = io.BytesIO()
    tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile.save(picture, "JPEG", quality=QUALITY, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(picture.getvalue()).decode()
    return Tile(source, caption, f"The photograph under {condition}")
