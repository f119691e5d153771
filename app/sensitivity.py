"""The Fourier sensitivity of a model: along which frequencies its loss rises.

    SFS(r) = sum over ring r of |F(g)|^2 / sum over all rings of it

with g the gradient of the cross entropy by the pixels, mean over channels, of the labels or else the predicted classes.
Source: Krishnamachari et al. 2022, TMLR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.statistics.shares import mean_interval, share_of
from ..core.errors import UsageError
from ..core.jobs import Progress, processors, silent
from ..core.records import Model
from ..engine.backends.base import open_attacker, variant_of
from ..engine.tuning import usual_rate
from ..probes.images.image_set import ImageSet
from ..probes.spectrum import check_size, energy_shares, octave_columns
from .study.matching import check_attackable, check_fits, match_images


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of a model to the frequencies of images."""

    tables: dict[str, list[dict[str, Any]]]
    """`sensitivity` by octave, and by `rings`: means over images with 95 % intervals over clusters."""
    note: str
    """A sentence on images that count nothing, empty where all count."""


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
    rings = [{"ring": ring} for ring in range(1, by_ring.shape[1] + 1)]
    tables: dict[str, list[dict[str, Any]]] = {"sensitivity": [], "rings": []}
    for title, columns, shares_of_images in (
        ("sensitivity", octaves, by_octave[:, [row["octave"] for row in octaves]]),
        ("rings", rings, by_ring),
    ):
        for row, values in zip(columns, shares_of_images[steep].T, strict=True):
            share = share_of(values, clusters)
            low, high = mean_interval(share)
            ends = {"sensitivity_low": max(0.0, low), "sensitivity_high": min(1.0, high)}
            tables[title].append(row | {"sensitivity": share.value} | ends)
    flat = int((~steep).sum())
    return Sensitivity(tables, f"{flat:,} images have no gradient, and count nothing" if flat else "")
