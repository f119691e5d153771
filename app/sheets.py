"""Sheets of tiles: a photograph under every condition, or the images of the rows of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..analysis.database.store import Store
from ..core.errors import ImageSetError, UsageError, did_you_mean, writing
from ..core.files import replacing
from ..core.records import Condition, Crop
from ..core.untrusted import printable, words_of
from ..probes.family import Batch
from ..probes.grid import PUBLISHED, Grid, make_grid
from ..probes.images.decode import BrokenImageError, cropped, pillow_warnings
from ..probes.images.image_set import ImageSet
from ..probes.images.set_files import image_keys
from .recorded_images import Conditions, as_recorded, clean, shown
from .study.file import Study

TILE, GAP, TITLE, LINE, MARGIN = 132, 6, 18, 15, 12
"""Pixels of a picture's side, between tiles, of a row's title, of a line below a tile, and around the sheet."""
COLUMNS, WALL_COLUMNS = 11, 6
"""Tiles in a row of a contact sheet, and of a wall."""
DARK, BRIGHTEST = 96, 0.98
"""A picture is nearly black where this share of its values is below DARK of 255."""
PROBE_TILES = 63
"""Conditions of one probe that are drawn. A map of waves has 1,985: no sheet would hold them."""
WALL_TILES = 240
"""Tiles that a wall shows at most."""
LINE_LETTERS = 44
"""Characters that a line of a caption has at most."""
SHOWN_BY_THE_PICTURE = ("image_index", "path", "image_set", "probe", "parameters", "cycles", "seed")
"""Columns whose values a picture, or the first lines of its caption, show already."""


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


# A contact sheet: one photograph under every condition, labelled


def grid_of(study: Path | None) -> Grid:
    """The grid of a study file, or the published one."""
    if study is None:
        return make_grid(PUBLISHED, Path())
    parsed = Study.read(study)
    return make_grid(parsed.probes, parsed.folder)


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


# A wall: each row of an answer is a tile with its image, and where it has a condition, with it perturbed


def draw_wall(store: Store, rows: pl.DataFrame, images: ImageSet, conditions: Conditions, out: Path) -> int:
    """Write a PNG of the rows' images, the first of them where there are many; gives how many tiles it has.

    Args:
        store: the results database that the rows come from.
        rows: `path`, or `image_index` in the set of the database, says which image a row is of. With `probe` and
            `parameters` it is shown perturbed, too, with the seed of the column `seed`, or that of the results in the
            database. Other columns become the caption.
        images: the image set.
        conditions: those that can be applied again.
        out: the file.

    Raises:
        UsageError: the rows name no images, images that the set does not have, or a condition that cannot be applied.
    """
    if rows.is_empty():
        raise UsageError("the query has no rows, so there is nothing to show")
    digests = store.frame("SELECT digest FROM image_set ORDER BY id")["digest"]
    selections = [selection for digest in digests if (selection := as_recorded(store, images, digest))]
    places = _places_in_set(rows, images, selections)
    settings: dict[tuple[str, str, int | None], tuple[Condition, int]] = {}
    tiles = []
    for row, index in zip(rows.head(WALL_TILES).to_dicts(), places, strict=False):
        pictures, condition, note = [clean(images, index)], None, ""
        if {"probe", "parameters"} <= row.keys():
            key = row["probe"], row["parameters"], row.get("seed")
            if key not in settings:
                settings[key] = _condition_and_seed(store, images.info.name, selections, conditions, key)
            condition, seed = settings[key]
            picture, note = stretched(conditions.apply(images, index, condition, seed))
            pictures.append(picture)
        tiles.append(SheetTile(pictures, _caption(row, images.paths[index], condition, images.info.size), note))
    draw_tiles([("", tiles)], WALL_COLUMNS, out)
    return len(tiles)


def _places_in_set(rows: pl.DataFrame, images: ImageSet, recorded: Sequence[ImageSet]) -> list[int]:
    """Places in the set of the images that the rows show; `recorded` has what the database knows of the set."""
    if "image_set" in rows.columns and set(rows["image_set"]) - {images.info.name}:
        another = next(name for name in rows["image_set"] if name != images.info.name)
        if not isinstance(another, str):
            raise UsageError("the query has the number of an image set, as tables do; select the set's name instead")
        raise UsageError(
            f"the query has images of {another}, and this set is {images.info.name}; add a WHERE image_set"
        )
    place_of = {path: index for index, path in enumerate(images.paths)}
    if "path" in rows.columns:
        places = [place_of.get(path, -1) for path in rows["path"]]
    elif "image_index" in rows.columns:
        if len(recorded) > 1:
            raise UsageError(
                f"the database has results on {len(recorded)} selections of the images of {images.info.name}, each "
                "with an image_index of its own; select path, too"
            )
        paths = dict(enumerate((recorded[0] if recorded else images).paths))
        places = [place_of.get(paths.get(index, ""), -1) for index in rows["image_index"]]
    else:
        raise UsageError("the query has neither image_index nor path, which say what images to show; select one")
    for number, index in enumerate(places):
        if index < 0:
            near = did_you_mean(str(rows["path"][number]), images.paths) if "path" in rows.columns else ""
            name = images.info.name
            raise UsageError(f"row {number + 1} of the query is of no image of {name}{near}; show another set")
    return places


def _condition_and_seed(
    store: Store,
    name: str,
    recorded: Sequence[ImageSet],
    conditions: Conditions,
    key: tuple[str, str, int | None],
) -> tuple[Condition, int]:
    """The condition with a probe, parameters and perhaps a seed, and the seed of its results on these images."""
    probe, parameters, seed = key
    results = store.frame(
        "SELECT DISTINCT condition.digest, cell.seed FROM condition JOIN cell ON cell.condition = condition.id "
        "JOIN image_set ON image_set.id = cell.image_set WHERE image_set.digest IN ? AND probe = ? "
        "AND parameters = ?::JSON AND (?::BIGINT IS NULL OR cell.seed = ?) ORDER BY ALL",
        [[images.info.digest for images in recorded], probe, parameters, seed, seed],
    )
    if results.is_empty():
        raise UsageError(f"there are no results of {probe} {parameters} on {name}; add WHERE image_set = '{name}'")
    if len(results) > 1:
        raise UsageError(
            f"{probe} {parameters} was run with several seeds or versions of the probe; select the column seed, too"
        )
    digest, its_seed = results.row(0)
    return conditions.find(probe, parameters, digest), its_seed


def _caption(row: Mapping[str, Any], path: str, condition: Condition | None, size: int) -> Sequence[str]:
    lines, omissions = [path], {*SHOWN_BY_THE_PICTURE}
    if condition is not None:
        words = condition.at(size)
        lines += [words] if len(words) <= LINE_LETTERS else words.split(", ")
        omissions |= {name for name, _ in condition.parameters}
    for name, value in row.items():
        if name not in omissions and value is not None:
            lines.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    texts = [printable(line) for line in lines]
    return [text if len(text) <= LINE_LETTERS else f"{text[: LINE_LETTERS - 1]}…" for text in texts]
