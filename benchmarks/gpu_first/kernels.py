"""The CUDA kernels and all 52 conditions on CuPy against NumPy: the largest deviations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bandlens.core.protocol import CLASSES
from bandlens.core.records import Condition
from bandlens.engine.decision import reduce_logits
from bandlens.probes.arrays import to_numpy
from bandlens.probes.bilateral import BILATERAL
from bandlens.probes.family import Batch
from bandlens.probes.noise import random_words, unit_normal_fields
from bandlens.probes.octaves import OCTAVE_MASK

from .bench import Bench


def kernels(bench: Bench) -> Iterator[tuple[str, float]]:
    xp, sizes = bench.xp, bench.sizes
    host, card = (bench.batch(module, min(16, sizes.batch)) for module in (np, xp))
    words = [to_numpy(random_words(module, 3, batch.keys, 5, 4096)) for module, batch in ((np, host), (xp, card))]
    yield "words", int((words[0] != words[1]).sum())
    fields = (unit_normal_fields(module, 3, batch.keys, 0, sizes.side) for module, batch in ((np, host), (xp, card)))
    yield "normals", apart(*fields)
    smooth = BILATERAL.conditions({"d": 5, "sigma_color": 75.0})
    yield "bilateral", largest(xp, BILATERAL.perturb, smooth, host, card)
    yield "octaves", largest(xp, OCTAVE_MASK.perturb, OCTAVE_MASK.conditions({})[::8], host, card)
    logits = np.random.default_rng(0).normal(scale=4, size=(sizes.batch, CLASSES)).astype(np.float32)
    labels = bench.images.labels[np.arange(sizes.batch) % sizes.images]  # type: ignore[index]
    expected = reduce_logits(np, logits, labels)
    columns = [to_numpy(column) for column in reduce_logits(xp, xp.asarray(logits), xp.asarray(labels))]
    yield "reduced", int((columns[0] != expected[0]).sum() + (columns[1] != expected[1]).sum())
    yield "confidence", apart(columns[2], expected[2])
    for perturb, conditions in bench.grid.groups(bench.grid.conditions):
        yield GROUPS[conditions[0].probe], largest(xp, perturb, conditions, host, card)


GROUPS = {"clean": "clean", "lowpass": "spectral", "critical_band": "band"}
"""The first condition of a group -> what the group is called."""


def largest(xp: ModuleType, perturb: Any, conditions: Sequence[Condition], host: Batch, card: Batch) -> float:
    """How far any condition's images on the device lie from NumPy's."""
    shape, worst = host.pixels.shape, 0.0
    expected = dict(perturb(np, host, conditions, lambda: np.empty(shape, np.float32)))
    for condition, images in perturb(xp, card, conditions, lambda: xp.empty(shape, dtype=xp.float32)):
        worst = max(worst, apart(expected.pop(condition), images))
    assert not expected, f"{expected.keys()} were not made"
    return worst


def apart(a: Any, b: Any) -> float:
    return float(np.abs(to_numpy(a).astype(np.float64) - to_numpy(b)).max())
