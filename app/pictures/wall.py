"""A wall of images: each row of an answer is a tile with its image, and where it has a condition, with it perturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFont

from ...analysis.database.store import Store
from ...core.errors import UsageError
from ...core.records import Condition
from ...core.untrusted import printable
from ...probes.images.image_set import ImageSet
from .conditions import Conditions, as_recorded, clean
from .sheet import write_png

TILE, GAP, LINE, MARGIN = 132, 6, 15, 12
ROW_TILES = 6
"""Tiles in a row of the wall."""
WALL_TILES = 240
"""Tiles that a wall shows at most."""
LINE_LETTERS = 44
"""Characters that a line of a caption has at most."""
SHOWN_BY_THE_PICTURE = ("image_index", "path", "image_set", "probe", "parameters", "cycles", "seed")
"""Columns whose values a picture, or the first lines of its caption, show already."""


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
    tiles = rows.head(WALL_TILES).to_dicts()
    has_conditions = {"probe", "parameters"} <= set(rows.columns)
    across = min(ROW_TILES, len(tiles))
    settings: dict[tuple[str, str, int | None], tuple[Condition, int]] = {}
    if has_conditions:
        for key in dict.fromkeys(map(_condition_key, tiles)):
            settings[key] = _condition_and_seed(store, images.info.name, selections, conditions, key)
    captions = [
        _caption(
            row, images.paths[index], settings[_condition_key(row)][0] if has_conditions else None, images.info.size
        )
        for row, index in zip(tiles, places, strict=False)
    ]
    width, lines = (2 if has_conditions else 1) * TILE + GAP, max(map(len, captions))
    height = TILE + lines * LINE + 2 * GAP
    down = -(-len(tiles) // across)
    sheet = Image.new("RGB", (2 * MARGIN + across * (width + GAP), 2 * MARGIN + down * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for tile_number, (row, index, caption) in enumerate(zip(tiles, places, captions, strict=False)):
        x, y = MARGIN + tile_number % across * (width + GAP), MARGIN + tile_number // across * height
        pictures = [clean(images, index)]
        if has_conditions:
            condition, seed = settings[_condition_key(row)]
            pictures.append(conditions.apply(images, index, condition, seed))
        for number, pixels in enumerate(pictures):
            tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x + number * TILE, y))
        for number, line in enumerate(caption):
            draw.text((x, y + TILE + 2 + number * LINE), line, "black", font)
    write_png(sheet, out)
    return len(tiles)


def _places_in_set(rows: pl.DataFrame, images: ImageSet, recorded: Sequence[ImageSet]) -> list[int]:
    """Places in the set of the images that the rows show; `recorded` has what the database knows of the set."""
    if "image_set" in rows.columns and set(rows["image_set"]) - {images.info.name}:
        another = next(name for name in rows["image_set"] if name != images.info.name)
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
            raise UsageError(f"row {number + 1} of the query is of no image of {images.info.name}; show another set")
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
        raise UsageError(f"the database has no results of {probe} {parameters} on {name}")
    if len(results) > 1:
        raise UsageError(
            f"{probe} {parameters} was run with several seeds or versions of the probe; select the column seed, too"
        )
    digest, its_seed = results.row(0)
    return conditions.find(probe, parameters, digest), its_seed


def _condition_key(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return row["probe"], row["parameters"], row.get("seed")


def _caption(row: Mapping[str, Any], path: str, condition: Condition | None, size: int) -> Sequence[str]:
    lines, hidden = [path], {*SHOWN_BY_THE_PICTURE}
    if condition is not None:
        lines.append(condition.at(size))
        hidden |= {name for name, _ in condition.parameters}
    for name, value in row.items():
        if name not in hidden and value is not None:
            lines.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    texts = [printable(line) for line in lines]
    return [text if len(text) <= LINE_LETTERS else f"{text[: LINE_LETTERS - 1]}…" for text in texts]
