"""Images of packed sets as a results database knows them: as they are, and as a condition makes them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from ...analysis.database.store import Store
from ...core.errors import BandlensError, UsageError
from ...core.records import Condition
from ...probes.contact_sheet import shown
from ...probes.family import Batch
from ...probes.grid import FAMILIES, PROBES, Grid, make_grid
from ...probes.images.image_set import ImageSet, open_image_set
from ...probes.images.storage import ABOUT

SEARCH_DEPTH = 4
"""Levels below a folder at which image sets are looked for: imagenet-c/fog/3 lies three below."""

SHARED_FACTS = ("size", "preprocessing", "labelled", "decision_space")
"""Facts that a selection of a set's images shares with the whole set."""


def find_sets(folders: Iterable[Path]) -> dict[str, ImageSet]:
    """The image sets at and below the folders, by their digest; those that are damaged are left out."""
    sets: dict[str, ImageSet] = {}
    patterns = ["[!.]*/" * depth + ABOUT for depth in range(SEARCH_DEPTH + 1)]  # drafts are hidden
    for file in dict.fromkeys(file for folder in folders for name in patterns for file in sorted(folder.glob(name))):
        try:
            images = open_image_set(file.parent)
        except BandlensError:
            continue
        sets.setdefault(images.info.digest, images)
    return sets


def as_recorded(store: Store, images: ImageSet, digest: str) -> ImageSet | None:
    """The image set of the database with this digest, if these are its images, or some of these.

    A study with a limit, or a set that was packed with one, has some of the images of a set, and a digest of its own;
    so has one whose labels were matched with a model's classes by name.
    """
    if images.info.digest == digest:
        return images
    recorded = store.frame(
        "SELECT id, count, size, preprocessing, labelled, decision_space FROM image_set WHERE digest = ?", [digest]
    ).rows(named=True)
    if not recorded or any(getattr(images.info, name) != recorded[0][name] for name in SHARED_FACTS):
        return None
    rows = store.frame(
        "SELECT path, label.class FROM image JOIN image_set ON image_set.id = image_set LEFT JOIN label "
        "ON (label.image_set, label.scheme, label.image_index) = (image_set.id, image_set.scheme, image.image_index) "
        "WHERE image_set.id = ? ORDER BY image.image_index",
        [recorded[0]["id"]],
    )
    if len(rows) != recorded[0]["count"] or not set(rows["path"]) <= set(images.paths):
        return None
    selection = images.packed.select(images.packed.find_rows(rows["path"].to_list()), _numbers_of(images, rows))
    return selection if selection.info.digest == digest else None


def _numbers_of(images: ImageSet, rows: pl.DataFrame) -> list[int] | None:
    """The number that each class of a set has in rows of the path and class of its images; None without names."""
    if images.labels is None or images.class_names is None:
        return None
    class_of = dict(zip(images.paths, images.labels.tolist(), strict=True))
    numbers = list(range(int(images.labels.max()) + 1))
    for path, number in rows.rows():
        numbers[class_of[path]] = number
    return numbers


class Conditions:
    """The conditions of a database that can be applied again."""

    def __init__(self, grid: Grid | None = None) -> None:
        """`grid` is that of a study file; without it, only probes that come with bandlens can be applied."""
        self._families = FAMILIES | dict(grid.families if grid else {})
        self._known = {condition.digest: condition for condition in grid.conditions} if grid else {}

    def find(self, probe: str, parameters: str, digest: str) -> Condition:
        """The condition with these parameters, a JSON object, and this digest; UsageError as `why_not` has it."""
        condition = self._find_version(probe, parameters, digest)
        if condition is None:
            raise UsageError(str(self.why_not(probe, parameters, digest)))
        return condition

    def why_not(self, probe: str, parameters: str, digest: str) -> str | None:
        """Why the condition cannot be applied again; None where it can."""
        if self._find_version(probe, parameters, digest):
            return None
        if probe in PROBES and PROBES[probe].attack:
            return f"{probe} needs the network: its images are not drawn again"
        if probe not in self._families:
            return f"{probe} is a probe of one's own; name the study file that has it"
        return f"{probe} {parameters} was made by another version of the probe; run it again to see it"

    def _find_version(self, probe: str, parameters: str, digest: str) -> Condition | None:
        if digest in self._known or probe not in FAMILIES:
            return self._known.get(digest)
        conditions = make_grid({probe: json.loads(parameters)}, Path()).conditions
        return next((condition for condition in conditions if condition.digest == digest), None)

    def apply(self, images: ImageSet, index: int, condition: Condition, seed: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8 of an image of the set under a condition, as a run with this seed made it."""
        position = np.array([index])
        batch = Batch(images.take(position), images.keys[position], position, seed)
        perturb = self._families[condition.probe].perturb
        [(_, batch_pixels)] = perturb(np, batch, [condition], lambda: np.empty(batch.pixels.shape, np.float32))
        return shown(batch_pixels[0])


def clean(images: ImageSet, index: int) -> NDArray[np.uint8]:
    """(size, size, 3) uint8 of an image of the set."""
    pixels: NDArray[np.uint8] = images.take(np.array([index]))[0].transpose(1, 2, 0)
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The file that shows (height, width, 3) uint8, no value changed."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()
