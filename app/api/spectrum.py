"""The frequencies that image sets hold, and along which of them the loss of a model rises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np

from ...analysis.statistics import Floats
from ...analysis.statistics.spectra import (
    MeanPower,
    exponent_weights,
    mean_interval,
    mean_power,
    weighted,
)
from ...core.errors import UsageError
from ...core.jobs import Progress, processors, silent
from ...core.records import Model
from ...engine.backends.base import open_attacker, variant_of
from ...engine.tuning import usual_rate
from ...probes.images.image_set import ImageSet
from ...probes.spectrum import (
    DIRECTIONS,
    Powers,
    check_size,
    energy_shares,
    octave_columns,
    read_powers,
    ring_cycles,
)
from ..study.compatibility import check_attackable, check_fits, match_images

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Spectrum:
    """The frequencies of one image set or two, or the sensitivity of a model to them."""

    tables: dict[str, Rows]
    """Image sets have `exponent`, `power`, `directions`, and two of them `ratio`. A model has `sensitivity` by octave,
    and `rings`."""
    note: str = ""
    """A sentence on images that count nothing."""


def measure_spectra(sets: Sequence[ImageSet], progress: Progress = silent) -> Spectrum:
    """Measure the power of one set or two: see `app.api`."""
    size = sets[0].info.size
    if sets[-1].info.size != size:
        raise UsageError(
            f"{sets[-1].folder} has images of {sets[-1].info.size} pixels, and {sets[0].folder} of {size}; pack both "
            "at one size, so that their octaves are the same"
        )
    for images in sets:
        check_size(images)
        if len(np.unique(images.clusters)) < 2:
            raise UsageError(
                f"{images.folder}: a spectrum with intervals needs images of two clusters, not {images.info.count} of "
                "one; pack more photographs"
            )
    octaves, exponent = octave_columns(size), exponent_weights(ring_cycles(size))
    names = [images.info.name for images in sets]
    if len(set(names)) < len(names):
        names = [str(images.folder) for images in sets]
    tables: dict[str, Rows] = {title: [] for title in ("exponent", "power", "directions", "ratio")}
    measured = list[tuple[MeanPower, MeanPower]]()
    for name, images in zip(names, sets, strict=True):
        first = {"image_set": name}
        powers = read_powers(images, progress)
        band_powers, ring_powers = _mean_powers(powers, images, octaves)
        measured.append((band_powers, ring_powers))
        tables["exponent"].append(first | _interval("exponent", *weighted(ring_powers, exponent)))
        total = powers.octaves.mean(axis=0).sum()
        for (title, columns), weights in _bands(octaves):
            row = _exponentials("power", *weighted(band_powers, weights))
            tables[title].append(first | columns | row | {"share": row["power"] / total})
    if len(sets) == 2:
        (bands_a, rings_a), (bands_b, rings_b) = measured
        difference = _between(rings_a, rings_b, exponent)
        tables["exponent"].append({"image_set": f"{names[1]} - {names[0]}"} | _interval("exponent", *difference))
        for (_, columns), weights in _bands(octaves):
            ratio = _exponentials("ratio", *_between(bands_a, bands_b, weights))
            tables["ratio"].append(columns | {"direction": columns.get("direction", "all")} | ratio)
    return Spectrum({title: rows for title, rows in tables.items() if rows})


def _bands(octaves: Rows) -> Iterator[tuple[tuple[str, dict[str, Any]], Floats]]:
    """Yield the table and the first columns of each band, and the weights that choose it among the mean powers."""
    bands = [("power", octave) for octave in octaves]
    bands += [("directions", octave | {"direction": direction}) for octave in octaves for direction in DIRECTIONS]
    return zip(bands, np.eye(len(bands)), strict=True)


def _mean_powers(powers: Powers, images: ImageSet, octaves: Rows) -> tuple[MeanPower, MeanPower]:
    """The mean powers of a set's `_bands`, and of its rings."""
    by_direction = powers.octaves[:, [row["octave"] for row in octaves]]
    bands = np.concatenate([by_direction.sum(axis=2), by_direction.reshape(len(by_direction), -1)], axis=1)
    if not (bands.any(axis=0).all() and powers.rings.any(axis=0).all()):
        raise UsageError(f"{images.folder}: no image has a wave in some octave; pack photographs that are not flat")
    clusters = images.clusters.astype(np.int64)
    return mean_power(bands, clusters), mean_power(powers.rings, clusters)


def _between(a: MeanPower, b: MeanPower, weights: Floats) -> tuple[float, float]:
    """The difference of a number of two sets, which are taken as independent, and its half width."""
    (value_a, half_a), (value_b, half_b) = weighted(a, weights), weighted(b, weights)
    return value_b - value_a, float(np.hypot(half_a, half_b))


def _interval(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def _exponentials(name: str, value: float, half: float) -> dict[str, float]:
    """The row of a number of which the logarithm and its half width are known."""
    return {key: exp(number) for key, number in _interval(name, value, half).items()}


# The Fourier sensitivity of a model


def measure_sensitivity(model: Model, images: ImageSet, engine: str, progress: Progress = silent) -> Spectrum:
    """Measure the Fourier sensitivity of a model; `engine` has gradients.

    Raises UsageError for images of one cluster, that are too small or decided otherwise than among all classes, or on
    which the gradient is 0; EngineError for an engine without gradients.
    """
    check_size(images)
    check_fits([model], [images.info])
    check_attackable(images.info)
    images = match_images(images, [model])
    variant, threads, count = variant_of(model, engine, "fp32"), processors(), images.info.count
    batch = usual_rate(engine, "fp32", model.path.parent, threads).batch
    shares = []
    with (
        open_attacker(variant, batch, threads) as session,
        progress("gradients", count, "images") as advance,
    ):
        for rows in np.split(np.arange(count), range(batch, count, batch)):
            labels = None if images.labels is None else images.labels[rows]
            shares.append(energy_shares(session.gradients(images.take(rows), labels)))
            advance(len(rows))
    by_octave, by_ring = (np.concatenate(parts) for parts in zip(*shares, strict=True))
    steep = np.isfinite(by_octave).all(axis=1)
    clusters = images.clusters[steep].astype(np.int64)
    if len(np.unique(clusters)) < 2:
        raise UsageError(
            f"{images.folder}: an interval needs images of two clusters on which the loss of {model.name} has a "
            "gradient; take more photographs"
        )
    octaves = octave_columns(images.info.size)
    by_octave = by_octave[:, [row["octave"] for row in octaves]]
    rings = [{"ring": ring} for ring in range(1, by_ring.shape[1] + 1)]
    flat = int((~steep).sum())
    return Spectrum(
        {
            title: [
                row
                | {"sensitivity": float(value), "sensitivity_low": max(0.0, low), "sensitivity_high": min(1.0, high)}
                for row, value, low, high in zip(rows, *mean_interval(shares_of_images[steep], clusters), strict=True)
            ]
            for title, rows, shares_of_images in (("sensitivity", octaves, by_octave), ("rings", rings, by_ring))
        },
        f"{flat:,} images have no gradient, and count nothing" if flat else "",
    )
