"""A contact sheet: one photograph under every condition, labelled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...core.errors import ImageSetError, UsageError, writing
from ...core.files import replacing
from ...core.records import Condition, Crop
from ...probes.family import Batch
from ...probes.grid import PUBLISHED, Grid, make_grid
from ...probes.images.decode import decode, pillow_warnings, planar
from ...probes.images.samples import BrokenImageError
from ...probes.images.set_files import image_keys

TILE, GAP, LABEL, MARGIN = 132, 6, 18, 12
COLUMNS = 11
DARK, BRIGHTEST = 96, 0.98
"""A picture is nearly black where this share of its values is below DARK of 255."""
PROBE_TILES = 63
"""Conditions of one probe that are drawn. A map of waves has 1,985: no sheet would hold them."""


def grid_of(study: Path | None) -> Grid:
    """The grid of a study file, or the published one."""
    if study is None:
        return make_grid(PUBLISHED, Path())
    from ..study.file import Study

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
    """(size, size, 3) uint8 of the photograph under each condition, in the grid's order.

    A probe with more than PROBE_TILES conditions has as many that are spread over them.
    """
    grid.check_size(photograph.shape[-1])
    keys = image_keys([sha256(photograph.tobytes()).hexdigest()])  # those that it has in a set
    batch = Batch(photograph[None], keys, np.zeros(1, np.int64), seed)
    conditions = _spread(grid.conditions)
    pictures = {
        condition: np.round(images[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        for perturb, group in grid.groups(conditions)
        for condition, images in perturb(np, batch, group, lambda: np.empty((1, *photograph.shape), np.float32))
    }
    return {condition: pictures[condition] for condition in conditions}


def _spread(conditions: Sequence[Condition]) -> list[Condition]:
    """At most PROBE_TILES of each probe, from the first to the last in equal steps."""
    choice: set[Condition] = set()
    for _, group in groupby(conditions, key=lambda condition: condition.probe):
        members = list(group)
        places = np.linspace(0, len(members) - 1, min(len(members), PROBE_TILES))
        choice |= {members[round(place)] for place in places}
    return [condition for condition in conditions if condition in choice]


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
    rows: list[tuple[str, list[tuple[Condition, str]]]] = []
    for title, labels in labelled_rows(pictures, photograph.shape[-1]):
        tiles = list(labels.items())
        rows += [(title, tiles[first : first + COLUMNS]) for first in range(0, len(tiles), COLUMNS)]
    columns = max(len(tiles) for _, tiles in rows)
    sheet = Image.new(
        "RGB",
        (2 * MARGIN + columns * (TILE + GAP), 2 * MARGIN + len(rows) * (TILE + GAP + 2 * LABEL)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    title_font, *fonts = (ImageFont.load_default(size) for size in (14, 12, 11, 10, 9))
    for row, (title, tiles) in enumerate(rows):
        y = MARGIN + row * (TILE + GAP + 2 * LABEL)
        draw.text((MARGIN, y), title, "black", title_font)
        for column, (condition, label) in enumerate(tiles):
            x = MARGIN + column * (TILE + GAP)
            pixels, stretch = stretched(pictures[condition])
            tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x, y + LABEL))
            draw.text((x + 3, y + LABEL + 2), stretch, "white", fonts[0], stroke_width=1, stroke_fill="black")
            font = next((font for font in fonts if font.getlength(label) <= TILE), fonts[-1])
            draw.text((x, y + LABEL + TILE), label, "black", font)
    write_png(sheet, out)
    return len(pictures)


def write_png(picture: Image.Image, out: Path) -> None:
    """Write a picture; UsageError where its file cannot be written."""
    with writing(out, "choose another --out"), replacing(out) as part:
        picture.save(part, format="PNG")
