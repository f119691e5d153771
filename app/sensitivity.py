"""Fourier sensitivity: the frequencies along which a loss rises fastest (`analysis.statistics.spectra`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.statistics.spectra import mean_interval
from ..core.errors import UsageError
from ..core.parallel import processors
from ..core.progress import Progress, silent
from ..core.records import Model
from ..engine.backends.base import open_attacker, variant_of
from ..engine.run import check_attackable, check_labels, check_tasks
from ..engine.tuning import usual_batch
from ..probes.images.image_set import ImageSet
from ..probes.spectrum import check_size, energy_shares, octave_columns
from .study.resolve import check_fits


@dataclass(frozen=True)
class Sensitivity:
    """The Fourier sensitivity of a model on an image set."""

    tables: dict[str, list[dict[str, Any]]]
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
    check_tasks(images, [model])
    check_labels(images, [model])
    variant, threads, count = variant_of(model, engine, "fp32"), processors(), images.info.count
    batch = usual_batch(engine, "fp32", model.path.parent, threads)
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
