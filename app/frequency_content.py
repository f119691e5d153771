"""The frequencies that image sets hold, what each octave tells of labels, and along which of them a loss rises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..analysis.database.open import open_store
from ..analysis.statistics import ALPHA, Floats, Whole
from ..analysis.statistics.shares import share_interval, share_of
from ..analysis.statistics.spectra import (
    MeanPower,
    Readouts,
    exponent_weights,
    mean_interval,
    mean_power,
    read_labels,
    standardized_products,
    use_beyond_information,
    weighted,
)
from ..core.errors import UsageError
from ..core.jobs import Progress, processors, silent
from ..core.protocol import OCTAVES
from ..core.records import Model
from ..engine.backends.base import open_attacker, variant_of
from ..engine.tuning import usual_rate
from ..export.heads.linear import make_folds
from ..probes.images.image_set import ImageSet
from ..probes.images.labels import spread
from ..probes.spectrum import (
    DIRECTIONS,
    Powers,
    check_size,
    energy_shares,
    octave_columns,
    read_powers,
    read_products,
    ring_cycles,
)
from .study.matching import check_attackable, check_fits, match_images

READOUT_IMAGES = 2000
"""Images that labels are read out of at most, drawn from all classes evenly: their products take 32 MB an octave."""
POWER_FLOOR = 1e-10
"""Power that is added before the logarithm of a band's energy, below that of rounding to 8 bits."""
FEATURES = ("energies", "image")
"""Features of an octave: logarithms of its power by channel and direction, and the band-passed image in grey."""
SHARES_OF_IMAGES = """
SELECT version, checkpoint, list(path ORDER BY path, octave) AS paths, list(share ORDER BY path, octave) AS shares
FROM octave_share_of(?) WHERE image_set = ? GROUP BY ALL ORDER BY ALL
"""
TABLES = ("exponent", "power", "directions", "ratio", "information", "use")
"""Titles of the tables, in their order; those without rows are left out."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Spectrum:
    """The frequencies of one image set or two."""

    tables: dict[str, Rows]
    """`exponent`, `power`, `directions`; also `ratio` of two sets, `information` of labels, and `use` by models."""
    rings: pl.DataFrame
    """image_set, cycles, power, power_low, power_high: the mean power of a wave in each ring."""
    notes: list[str] = field(default_factory=list)
    """Sentences on tables that are lacking."""


@dataclass(frozen=True, eq=False)
class _Information:
    """The label information of some images of a set."""

    paths: list[str]
    clusters: Whole
    readouts: Readouts
    """Two readouts an octave: its energies, then its images."""


def measure_spectra(
    sets: Sequence[ImageSet], database: Path | None = None, study: str = "*", progress: Progress = silent
) -> Spectrum:
    """Measure the power of one set or two, the label information of those with labels, and what models use of it.

    Raises UsageError for a set with fewer than two clusters or without waves, for images that are too small or of two
    sizes, and for a database without octave shares of a set.
    """
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
    shares = None if database is None else _read_shares(database, study, [images.info.name for images in sets])
    tables: dict[str, Rows] = {title: [] for title in TABLES}
    rings, notes, measured = Rows(), list[str](), list[tuple[MeanPower, MeanPower]]()
    for name, images in zip(names, sets, strict=True):
        first = {"image_set": name}
        powers = read_powers(images, progress)
        band_powers, ring_powers = _mean_powers(powers, images, octaves)
        measured.append((band_powers, ring_powers))
        tables["exponent"].append(first | _interval("exponent", *weighted(ring_powers, exponent)))
        total = powers.octaves.mean(axis=(0, 1)).sum()
        for (title, columns), weights in _bands(octaves):
            row = _exponentials("power", *weighted(band_powers, weights))
            tables[title].append(first | columns | row | {"share": row["power"] / total})
        for cycles, weights in zip(ring_cycles(size), np.eye(size // 2), strict=True):
            rings.append(first | {"cycles": float(cycles)} | _exponentials("power", *weighted(ring_powers, weights)))
        information = _read_information(images, powers, octaves, progress)
        if isinstance(information, str):
            notes.append(information)
            continue
        tables["information"] += [first | row for row in _information_rows(information, octaves)]
        if shares is not None:
            rows = _use_rows(information, shares[images.info.name], octaves, images)
            tables["use"] += [first | row for row in rows]
    if len(sets) == 2:
        (bands_a, rings_a), (bands_b, rings_b) = measured
        difference = _between(rings_a, rings_b, exponent)
        tables["exponent"].append({"image_set": f"{names[1]} - {names[0]}"} | _interval("exponent", *difference))
        for (_, columns), weights in _bands(octaves):
            ratio = _exponentials("ratio", *_between(bands_a, bands_b, weights))
            tables["ratio"].append(columns | {"direction": columns.get("direction", "all")} | ratio)
    return Spectrum({title: rows for title, rows in tables.items() if rows}, pl.DataFrame(rings), notes)


def _bands(octaves: Rows) -> Iterator[tuple[tuple[str, dict[str, Any]], Floats]]:
    """Yield the table and the first columns of each band, and the weights that choose it among the mean powers."""
    bands = [("power", octave) for octave in octaves]
    bands += [("directions", octave | {"direction": direction}) for octave in octaves for direction in DIRECTIONS]
    return zip(bands, np.eye(len(bands)), strict=True)


def _mean_powers(powers: Powers, images: ImageSet, octaves: Rows) -> tuple[MeanPower, MeanPower]:
    """The mean powers of a set's `_bands`, and of its rings."""
    by_direction = powers.octaves.mean(axis=1)[:, [row["octave"] for row in octaves]]
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


def _read_information(images: ImageSet, powers: Powers, octaves: Rows, progress: Progress) -> _Information | str:
    """Read labels out of each octave; a sentence says why there is nothing to read."""
    if images.labels is None:
        return f"{images.info.name} has no labels, so there is no label information to tell"
    rows = spread(images.labels, images.paths, READOUT_IMAGES, 0)
    pairs = np.unique([images.labels[rows], images.clusters[rows]], axis=1)
    labels, counts = np.unique(pairs[0], return_counts=True)
    rows = rows[np.isin(images.labels[rows], labels[counts > 1])]
    if (counts > 1).sum() < 2:
        most = min(READOUT_IMAGES, images.info.count)
        return (
            f"{images.info.name}: labels are read out of images that were held out, which takes two labels of two "
            f"clusters each among {most:,} images; there is no label information to tell"
        )
    _, classes = np.unique(images.labels[rows], return_inverse=True)
    clusters = images.clusters[rows].astype(np.int64)
    energies = np.log(powers.octaves[rows] + POWER_FLOOR)
    products = read_products(images, rows, progress)
    kernels = np.array(
        [
            kernel
            for octave in (row["octave"] for row in octaves)
            for kernel in (standardized_products(energies[:, :, octave].reshape(len(rows), -1)), products[octave])
        ]
    )
    folds = make_folds(images.labels[rows], images.clusters[rows], 0)
    paths = [images.paths[row] for row in rows]
    return _Information(paths, clusters, read_labels(kernels, classes, clusters, folds))


def _information_rows(information: _Information, octaves: Rows) -> Iterator[dict[str, Any]]:
    readouts, features = information.readouts, [(octave, name) for octave in octaves for name in FEATURES]
    for (octave, name), correct, chance, p in zip(features, readouts.correct, readouts.chance, readouts.p, strict=True):
        share = share_of(correct, information.clusters)
        low, high = share_interval(share)
        columns = {"readout": name, "accuracy": share.value, "accuracy_low": low, "accuracy_high": high}
        yield octave | columns | {"chance": float(chance), "p": float(p)}


def _read_shares(database: Path, study: str, names: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of SHARES_OF_IMAGES of each image set; UsageError where none of them has any."""
    with open_store(database, read_only=True) as store:
        models = {name: store.frame(SHARES_OF_IMAGES, [study, name]).rows() for name in names}
    if not any(models.values()):
        raise UsageError(
            f"{database} has no octave shares on {' or '.join(models)}; run the study octaves on it "
            "(`bandlens init octaves.toml --study octaves`), or leave out --db"
        )
    return models


def _use_rows(
    information: _Information, models: Sequence[tuple[Any, ...]], octaves: Rows, images: ImageSet
) -> Iterator[dict[str, Any]]:
    """Yield a row for each model and octave: what it uses, what the better readout has, and the excess."""
    readouts = information.readouts
    above = readouts.correct - readouts.chance[:, None]
    above[readouts.p > ALPHA] = 0
    place = {path: row for row, path in enumerate(information.paths)}
    better = above.reshape(len(octaves), len(FEATURES), -1)
    better = np.take_along_axis(better, better.mean(axis=2).argmax(axis=1)[:, None, None], axis=1)[:, 0]
    for version, checkpoint, paths, shares in models:
        rows = [row for row, path in enumerate(paths[:: len(OCTAVES)]) if path in place]
        places = [place[paths[row * len(OCTAVES)]] for row in rows]
        if len(np.unique(information.clusters[places])) < 2:
            raise UsageError(
                f"{version} ran on other images than those of {images.folder}; give the set that it ran on"
            )
        use = np.reshape(shares, (-1, len(OCTAVES)))[np.ix_(rows, [row["octave"] for row in octaves])]
        information_of_images = better[:, places].T
        results = use_beyond_information(use, information_of_images, information.clusters[places])
        for number, octave in enumerate(octaves):
            row = {"version": version, "checkpoint": checkpoint} | octave
            row |= {"use": float(use[:, number].mean()), "information": float(information_of_images[:, number].mean())}
            value, low, high = (None, None, None) if results is None else results[number]
            yield row | {"excess": value, "excess_low": low, "excess_high": high, "verdict": _verdict(low, high)}


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "undetermined"
    return "candidate shortcut" if low > 0 else "less than its information" if high < 0 else "no excess found"


# The Fourier sensitivity of a model


@dataclass(frozen=True)
class Sensitivity:
    """The Fourier sensitivity of a model on an image set."""

    tables: dict[str, Rows]
    """`sensitivity` by octave, and `rings`."""
    flat: int
    """The number of images without a gradient."""


def measure_sensitivity(model: Model, images: ImageSet, engine: str, progress: Progress = silent) -> Sensitivity:
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
    return Sensitivity(
        {
            title: [
                row
                | {"sensitivity": float(value), "sensitivity_low": max(0.0, low), "sensitivity_high": min(1.0, high)}
                for row, value, low, high in zip(rows, *mean_interval(shares_of_images[steep], clusters), strict=True)
            ]
            for title, rows, shares_of_images in (("sensitivity", octaves, by_octave), ("rings", rings, by_ring))
        },
        int((~steep).sum()),
    )
