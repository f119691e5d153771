"""A contact sheet: one photograph under every condition, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import ImageSetError, UsageError
from ..export.files import replacing
from ..probes.family import Batch
from ..probes.grid import PUBLISHED, Grid, make_grid
from ..probes.images.decode import BrokenImageError, decode, pillow_warnings, planar
from ..probes.images.files import image_keys
from ..records import Condition, Crop

TILE, GAP, LABEL, MARGIN = 132, 6, 18, 12
COLUMNS = 11
MOST_TILES = 63
"""Conditions of one probe that are drawn. A map of waves has 1,985: no sheet would hold them."""


def grid_of(study: Path | None) -> Grid:
    """The grid of a study file, or the published one."""
    if study is None:
        return make_grid(PUBLISHED, Path())
    from .study.file import Study

    parsed = Study.read(study)
    return make_grid(parsed.probes, parsed.folder)


def read_photograph(file: Path) -> NDArray[np.uint8]:
    """(3, 224, 224) uint8 of a photograph, cropped as image sets are."""
    try:
        with pillow_warnings():
            return planar(decode(file.read_bytes()), Crop())
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; name a JPEG, PNG or WebP file") from None
    except BrokenImageError as error:
        raise ImageSetError(f"{file}: {error}; name a JPEG, PNG or WebP file") from None


def perturbed(photograph: NDArray[np.uint8], grid: Grid, seed: int) -> dict[Condition, NDArray[np.uint8]]:
    """(size, size, 3) uint8 of the photograph under each condition, in the grid's order; of a probe with more than
    MOST_TILES, under as many that are spread over them.
    """
    grid.check_size(photograph.shape[-1])
    keys = image_keys([sha256(photograph.tobytes()).hexdigest()])  # those that it has in a set
    batch = Batch(photograph[None], keys, np.zeros(1, np.int64), seed)
    shown = _spread(grid.conditions)
    made = {
        condition: np.round(images[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        for perturb, conditions in grid.groups(shown)
        for condition, images in perturb(np, batch, conditions, lambda: np.empty((1, *photograph.shape), np.float32))
    }
    return {condition: made[condition] for condition in shown}


def _spread(conditions: Sequence[Condition]) -> list[Condition]:
    """At most MOST_TILES of each probe, from the first to the last in equal steps."""
    chosen: set[Condition] = set()
    for probe in {condition.probe for condition in conditions}:
        mine = [condition for condition in conditions if condition.probe == probe]
        chosen |= {mine[round(place)] for place in np.linspace(0, len(mine) - 1, min(len(mine), MOST_TILES))}
    return [condition for condition in conditions if condition in chosen]


def draw_sheet(photograph: NDArray[np.uint8], grid: Grid, seed: int, out: Path) -> int:
    """Write the contact sheet as PNG, and give the number of its tiles: a row for each probe, and for each noise level
    of one that has frequencies.
    """
    pictures = perturbed(photograph, grid, seed)
    rows: list[tuple[str, dict[Condition, str]]] = []
    for title, group in groupby(pictures, key=_row_title):
        alike = list(group)
        shared, labels = _labels(alike)
        for first in range(0, len(alike), COLUMNS):
            tiles = {condition: labels[condition] for condition in alike[first : first + COLUMNS]}
            rows.append((", ".join([title, *shared]), tiles))
    columns = max(len(tiles) for _, tiles in rows)
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + columns * (TILE + GAP), 2 * MARGIN + len(rows) * (TILE + GAP + 2 * LABEL)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    title_font, font = ImageFont.load_default(14), ImageFont.load_default(12)
    for row, (title, tiles) in enumerate(rows):
        top = MARGIN + row * (TILE + GAP + 2 * LABEL)
        draw.text((MARGIN, top), title, "black", title_font)
        for column, (condition, label) in enumerate(tiles.items()):
            left = MARGIN + column * (TILE + GAP)
            tile = Image.fromarray(pictures[condition]).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, top + LABEL))
            draw.text((left, top + LABEL + TILE), label, "black", font)
    try:
        with replacing(out) as part:
            sheet.save(part, format="PNG")
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    return len(pictures)


def _row_title(condition: Condition) -> str:
    level = condition.number("noise_sd")
    return condition.probe if level is None else f"{condition.probe}, noise_sd {level:g}"


def _labels(members: Sequence[Condition]) -> tuple[list[str], dict[Condition, str]]:
    """What several conditions of a row have in common, for its title, and what each of them alone has, for its tile."""
    texts = {
        condition: [
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in condition.parameters
            if name not in ("noise_sd", "draw")
        ]
        for condition in members
    }
    everywhere = set.intersection(*map(set, texts.values())) if len(members) > 1 else set()
    shared = [text for text in texts[members[0]] if text in everywhere]
    return shared, {
        condition: ", ".join(text for text in listed if text not in everywhere) for condition, listed in texts.items()
    }
