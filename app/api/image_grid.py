"""A grid of the images that the rows of a query name, each with its perturbed version beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ...analysis.database.store import Store
from ...core.errors import UsageError, did_you_mean
from ...core.records import Condition
from ...core.untrusted import printable
from ...probes.contact_sheet import SheetTile, draw_tiles, stretched
from ...probes.images.image_set import ImageSet
from ..study.set_lookup import Conditions, as_recorded, clean

WALL_COLUMNS = 6
"""Tiles in a row of a wall."""
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
