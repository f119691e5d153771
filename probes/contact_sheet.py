"""Draw contact sheets: one image under every condition of a grid, as labeled tiles."""

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
"""Sizes in pixels: side of an image, gap between tiles, row title, line of text below a tile, margin of the sheet."""
COLUMNS = 11
"""Tiles per row."""
DARK, BRIGHTEST = 96, 0.98
"""An image counts as nearly black if at least the proportion `BRIGHTEST` of its values is below `DARK` of 255."""
PROBE_TILES = 63
"""Maximum number of tiles per probe. A Fourier map has 1,985 conditions, too many for one sheet."""


@dataclass(frozen=True, slots=True)
class SheetTile:
    """Images drawn side by side, (size, size, 3) uint8, with lines of text below and a note on the last image."""

    pictures: Sequence[NDArray[np.uint8]]
    lines: Sequence[str]
    note: str = ""


def draw_tiles(groups: Sequence[tuple[str, Sequence[SheetTile]]], columns: int, out: Path) -> None:
    """Write groups of tiles to a PNG file, in rows below the title of each group.

    Args:
        groups: Title and tiles of each group.
        columns: Maximum number of tiles per row.
        out: File to write. An existing file is replaced.

    Raises:
        UsageError: The file is not named *.png or cannot be written.
    """
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
    """Read an image file and crop it as image sets do, (3, 224, 224) uint8."""
    try:
        with pillow_warnings():
            return cropped(file.read_bytes(), Crop())[0]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {words_of(error)}; name a JPEG, PNG or WebP file") from None
    except BrokenImageError as error:
        raise ImageSetError(f"{file}: {error}; name a JPEG, PNG or WebP file") from None


def perturbed(photograph: NDArray[np.uint8], grid: Grid, seed: int) -> dict[Condition, NDArray[np.uint8]]:
    """Apply every condition of a grid to an image.

    If a probe has more than `PROBE_TILES` conditions, an evenly spaced selection of them is used.

    Returns:
        Condition -> (size, size, 3) uint8 image, in the order of the grid.
    """
    grid.check_size(photograph.shape[-1])
    keys = image_keys([sha256(photograph.tobytes()).hexdigest()])  # the same key as in an image set, so the same noise
    batch = Batch(photograph[None], keys, np.zeros(1, np.int64), seed)
    conditions = _spread(grid.conditions)
    pictures = {
        condition: shown(images[0])
        for perturb, group in grid.groups(conditions)
        for condition, images in perturb(np, batch, group, lambda: np.empty((1, *photograph.shape), np.float32))
    }
    return {condition: pictures[condition] for condition in conditions}


def _spread(conditions: Sequence[Condition]) -> list[Condition]:
    """Select at most `PROBE_TILES` conditions of each probe, evenly spaced from the first to the last."""
    choice: list[Condition] = []
    for _, group in groupby(conditions, key=lambda condition: condition.probe):
        members = list(group)
        places = np.linspace(0, len(members) - 1, min(len(members), PROBE_TILES))
        choice += [members[round(place)] for place in places]
    return choice


def labelled_rows(conditions: Iterable[Condition], size: int) -> list[tuple[str, dict[Condition, str]]]:
    """Arrange conditions in rows of tiles, and write a title for each row and a label for each tile.

    A row contains the conditions of a probe that differ only in the parameters of its axes, or all conditions if the
    probe has no axis. The title contains the parameter values that all tiles of the row have in common, and the label
    of a tile contains the others.

    Args:
        conditions: Conditions to arrange.
        size: Side length of the images in pixels.

    Returns:
        Title and condition -> label of each row.
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
    """Brighten an image if it is nearly black, as high-pass filtered images are. Also return a note with the factor."""
    brightest = float(np.quantile(pixels, BRIGHTEST))
    if not 0 < brightest < DARK:
        return pixels, ""
    factor = 255 / brightest
    return np.round(np.minimum(pixels * factor, 255)).astype(np.uint8), f"{factor:.0f} times brighter"


def draw_sheet(photograph: NDArray[np.uint8], grid: Grid, seed: int, out: Path) -> int:
    """Write the contact sheet of an image to a PNG file and return the number of tiles."""
    pictures = perturbed(photograph, grid, seed)
    groups = []
    for title, labels in labelled_rows(pictures, photograph.shape[-1]):
        stretches = [(stretched(pictures[condition]), label) for condition, label in labels.items()]
        groups.append((title, [SheetTile([pixels], [label], stretch) for (pixels, stretch), label in stretches]))
    draw_tiles(groups, COLUMNS, out)
    return len(pictures)


def shown(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert a (3, size, size) image in [0, 1] to (size, size, 3) uint8."""
    pixels: NDArray[np.uint8] = np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    return pixels
