"""Numbers that authors printed follow from their own files, or from what ships, but for those whose reason is known.

A number is equal within half a unit of its last digit, and what the rounding of the numbers that it follows from adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
import pytest

from bandlens.analysis.metrics.families.critical_band import CHANNEL, fit_band

PUBLISHED = Path(__file__).parents[5] / "shared" / "published"
pytestmark = pytest.mark.skipif(not (PUBLISHED / "atlas").is_dir(), reason="no figures at ../shared/published/atlas")
Numbers = Iterator[tuple[str, float, float]]
"""Name of each figure, the printed number, and the recomputed one."""


def channels_of_the_study() -> Numbers:
    """The bell through the integer thresholds of each model, found by search, and the study's three numbers of it."""
    for row in pl.read_csv(PUBLISHED / "critical_band_thresholds.csv", infer_schema=False).to_dicts():
        band = fit_band([int(threshold) for threshold in row["thresholds_f0_to_f6"]])
        for name in CHANNEL:
            yield f"{row['model']} {row['variant']} {name}", float(row[name]), band[name].value


def timm() -> Numbers:
    """top-1 and top-5 of each model and size less those on ImageNet, or over the same 200 classes of it."""
    folder = PUBLISHED / "atlas" / "timm"
    for name in ("imagenet-real", "imagenetv2-matched-frequency", "sketch", "imagenet-a", "imagenet-r"):
        file = folder / f"results-{name}.csv"
        base = file.with_name(file.name.replace(".csv", "-clean.csv"))
        tables = [pl.read_csv(path) for path in (file, base if base.exists() else folder / "results-imagenet.csv")]
        pairs = tables[0].join(tables[1], on=["model", "img_size"], suffix="_base", maintain_order="left")
        for row in pairs.to_dicts():
            for top in ("top1", "top5"):
                figure = f"{file.name} {top} {row['model']} {row['img_size']}"
                yield figure, float(row[f"{top}_diff"]), row[top] - row[f"{top}_base"]


@pytest.mark.parametrize(
    ("numbers", "count", "tolerance", "differences"),
    [
        # The centre of a bell through seven equal thresholds is arbitrary.
        (channels_of_the_study, 288, 1e-3, {"raw center_frequency": 27}),
        # Models of one top-1 on ImageNet have the top-5 of each other subtracted.
        (timm, 15558, 0.0016, {"top5": 2299}),
    ],
)
def test_printed_numbers_are_recomputed(
    numbers: Callable[[], Numbers], count: int, tolerance: float, differences: Mapping[str, int]
) -> None:
    figures = {name: (number, recomputed) for name, number, recomputed in numbers()}
    assert len(figures) == count
    unequal = [name for name, (number, recomputed) in figures.items() if not abs(number - recomputed) <= tolerance]
    assert {words: sum(words in name for name in unequal) for words in differences} == differences
    assert len(unequal) == sum(differences.values())
