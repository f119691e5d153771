"""Contact sheets: one image under every condition of a grid, as labeled tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..core.errors import ImageSetError, UsageError, writing
from ..core.files import replacing
from ..core.records import Condition, Crop
from ..core.untrusted import words_of
from .family import Batch
from .grid import Grid
from .images.decode import BrokenImageError, cropped, pillow_warnings
from .images.storage import image_keys

TILE, GAP, TITLE, LINE, MARGIN = 132, 6, 18, 15, 12
"""Pixels of a picture's side, between tiles, of a row's title, of a line below a tile, and around the sheet."""
COLUMNS = 11
"""Tiles in a row of a contact sheet."""
DARK, BRIGHTEST = 96, 0.98
"""A picture is nearly black where this share of its values is below DARK of 255."""
PROBE_TILES = 63
"""Conditions of one probe that are drawn. A map of waves has 1,985: no sheet would hold them."""


@dataclass(frozen=True, slots=True)
class SheetTile:
    """Pictures side by side, (size, size, 3) uint8, with lines of text below, and a note on the last of them."""

    pictures: Sequence[NDArray[np.uint8]]
    lines: Sequence[str]
    note: str = ""


def draw_tiles(groups: Sequence[tuple[str, Sequence[SheetTile]]], columns: int, out: Path) -> None:
    """Write groups of tiles as PNG, in rows below their titles; UsageError where the file cannot be written."""
    if out.suffix.lower() not in ("", ".png"):
        raise UsageError(f"{out}: the picture is PNG; name it {out.with_suffix('.png')}")
    tiles = [tile for _, members in groups for tile in members]
    rows = [
        (title, members[first : first + columns])
        for title, members in groups
        for first in range(0, len(members), columns)
    ]
    width = max(len(tile.pictures) for tile in tiles) * (TILE + GAP)
    top = TITLE if any(title for title, _ in rows) else 0
    height = top + TILE + max(len(tile.lines) for tile in tiles) * LINE + 2 * GAP
    across = max(len(row_tiles) for _, row_tiles in rows)
    sheet = Image.new("RGB", (2 * MARGIN + across * width, 2 * MARGIN + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    title_font, *fonts = (ImageFont.load_default(size) for size in (14, 12, 11, 10, 9))
    for row, (title, row_tiles) in enumerate(rows):
        y = MARGIN + row * height + top
        draw.text((MARGIN, y - top), title, "black", title_font)
        for column, tile in enumerate(row_tiles):
            x = MARGIN + column * width
            for number, pixels in enumerate(tile.pictures):
                picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((TILE, TILE), Image.Resampling.LANCZOS)
                sheet.paste(picture, (x + number * TILE, y))
            note_x = x + (len(tile.pictures) - 1) * TILE + 3
            draw.text((note_x, y + 2), tile.note, "white", fonts[0], stroke_width=1, stroke_fill="black")
            for number, line in enumerate(tile.lines):
                font = next((font for font in fonts if font.getlength(line) <= width - GAP), fonts[-1])
                draw.text((x, y + TILE + number * LINE), line, "black", font)
    with writing(out, "choose another --out"), replacing(out) as part:
        sheet.save(part, format="PNG")


def read_photograph(file: Path) -> NDArray[np.uint8]:
    """(3, 224, 224) uint8 of a photograph, cropped as image sets are."""
    try:
        with pillow_warnings():
            return cropped(file.read_bytes(), Crop())[0]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {words_of(error)}; name a JPEG, PNG or WebP file") from None
    except BrokenImageError as error:
        raise ImageSetError(f"{file}: {error}; name a JPEG, PNG or WebP file") from None


def perturbed(photograph: NDArray[np.uint8], grid: Grid, seed: int) -> dict[Condition, NDArray[np.uint8]]:
    """(size, size, 3) uint8 of the photograph under each condition, in the grid's order.

    A probe with more than PROBE_TILES conditions has as many that are spread over them.
    """
    grid.check_size(photograph.shape[-1])
    keys = image_keys([sha256(photograph.tobytes()).hexdigest()])  # those that it has in a set
    batch = Batch(photograph[None], keys, np.zeros(1, np.int64), seed)
    conditions = _spread(grid.conditions)
    pictures = {
        condition: shown(images[0])
        for perturb, group in grid.groups(conditions)
        for condition, images in perturb(np, batch, group, lambda: np.empty((1, *photograph.shape), np.float32))
    }
    return {condition: pictures[condition] for condition in conditions}


def _spread(conditions: Sequence[Condition]) -> list[Condition]:
    """At most PROBE_TILES of each probe, from the first to the last in equal steps."""
    choice: list[Condition] = []
    for _, group in groupby(conditions, key=lambda condition: condition.probe):
        members = list(group)
        places = np.linspace(0, len(members) - 1, min(len(members), PROBE_TILES))
        choice += [members[round(place)] for place in places]
    return choice


def labelled_rows(conditions: Iterable[Condition], size: int) -> list[tuple[str, dict[Condition, str]]]:
    """(title, condition -> label) of each row of tiles: the conditions of a probe that share their series,
    or all of them where the probe has no axis.

    `size` is that of the images, in pixels a side.

    The title says what all of a row have in common, and a label what its condition alone has.
    """
    rows: dict[tuple[str, str], list[Condition]] = {}
    for condition in conditions:
        series = condition.facts.series if condition.facts.x_title else ""
        rows.setdefault((condition.probe, series), []).append(condition)
    labelled = []
    for (probe, _), members in rows.items():
        settings = [condition.facts.setting_at(size).split(", ") for condition in members]
        common_words = [words for words in settings[0] if all(words in setting for setting in settings)]
        labels = [", ".join(words for words in setting if words not in common_words) for setting in settings]
        title = ", ".join([probe.replace("_", " "), *filter(None, common_words)])
        labelled.append((title, dict(zip(members, labels, strict=True))))
    return labelled


def stretched(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
    """The picture, brightened where it is nearly black, as high-passes leave it; and by how much, in words."""
    brightest = float(np.quantile(pixels, BRIGHTEST))
    if not 0 < brightest < DARK:
        return pixels, ""
    factor = 255 / brightest
    return np.round(np.minimum(pixels * factor, 255)).astype(np.uint8), f"{factor:.0f} times brighter"


def draw_sheet(photograph: NDArray[np.uint8], grid: Grid, seed: int, out: Path) -> int:
    """Write the contact sheet as PNG, and give the number of its tiles."""
    pictures = perturbed(photograph, grid, seed)
    groups = []
    for title, labels in labelled_rows(pictures, photograph.shape[-1]):
        stretches = [(stretched(pictures[condition]), label) for condition, label in labels.items()]
        groups.append((title, [SheetTile([pixels], [label], stretch) for (pixels, stretch), label in stretches]))
    draw_tiles(groups, COLUMNS, out)
    return len(pictures)


def shown(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(size, size, 3) uint8 of (3, size, size) in [0, 1]."""
    pixels: NDArray[np.uint8] = np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    return pixels
