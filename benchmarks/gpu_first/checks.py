"""Whether a card computes what NumPy does, and ends with one line where it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from bandlens.core.errors import DeviceError
from bandlens.core.protocol import CLASSES
from bandlens.core.records import Condition
from bandlens.engine.decision import reduce_logits
from bandlens.engine.device.devices import GPU_ENGINES, readiness
from bandlens.engine.device.run_images import free_memory
from bandlens.engine.run import make_resources, run
from bandlens.probes.arrays import to_numpy
from bandlens.probes.blur_and_shuffle import BILATERAL
from bandlens.probes.family import Batch
from bandlens.probes.noise import random_words, unit_normal_fields
from bandlens.probes.octaves import OCTAVE_MASK

from .bench import Bench
from .networks import cells_of, open_networks, variant_named

Figures = Iterator[tuple[str, float]]


def doctor(_: Bench) -> Figures:
    """Whether each engine is ready."""
    for engine in GPU_ENGINES:
        state = readiness(engine)
        print(f"  {engine}: {state.line}")
        yield engine, int(state.ready)


def kernels(bench: Bench) -> Figures:
    """The CUDA kernels and all conditions on CuPy against NumPy: the largest deviations."""
    xp, sizes = bench.xp, bench.sizes
    host, card = (bench.batch(module, min(16, sizes.batch)) for module in (np, xp))
    words = [to_numpy(random_words(module, 3, batch.keys, 5, 4096)) for module, batch in ((np, host), (xp, card))]
    yield "words", int((words[0] != words[1]).sum())
    fields = (unit_normal_fields(module, 3, batch.keys, 0, sizes.side) for module, batch in ((np, host), (xp, card)))
    yield "normals", deviation(*fields)
    smooth = BILATERAL.conditions({"d": 5, "sigma_color": 75.0})
    yield "bilateral", largest_deviation(xp, BILATERAL.perturb, smooth, host, card)
    yield "octaves", largest_deviation(xp, OCTAVE_MASK.perturb, OCTAVE_MASK.conditions({})[::8], host, card)
    logits = np.random.default_rng(0).normal(scale=4, size=(sizes.batch, CLASSES)).astype(np.float32)
    labels = bench.images.labels[np.arange(sizes.batch) % sizes.images]  # type: ignore[index]
    expected = reduce_logits(np, logits, labels)
    columns = [to_numpy(column) for column in reduce_logits(xp, xp.asarray(logits), xp.asarray(labels))]
    yield "reduced", int((columns[0] != expected[0]).sum() + (columns[1] != expected[1]).sum())
    yield "confidence", deviation(columns[2], expected[2])
    for perturb, conditions in bench.grid.groups(bench.grid.conditions):
        yield GROUPS[conditions[0].probe], largest_deviation(xp, perturb, conditions, host, card)


GROUPS = {"clean": "clean", "lowpass": "spectral", "critical_band": "band"}
"""The first condition of a group -> what the group is called."""


def largest_deviation(xp: ModuleType, perturb: Any, conditions: Sequence[Condition], host: Batch, card: Batch) -> float:
    """How far any condition's images on the device lie from NumPy's."""
    shape, maximum = host.pixels.shape, 0.0
    expected = dict(perturb(np, host, conditions, lambda: np.empty(shape, np.float32)))
    for condition, images in perturb(xp, card, conditions, lambda: xp.empty(shape, dtype=xp.float32)):
        maximum = max(maximum, deviation(expected.pop(condition), images))
    assert not expected, f"{expected.keys()} were not made"
    return maximum


def deviation(a: Any, b: Any) -> float:
    return float(np.abs(to_numpy(a).astype(np.float64) - to_numpy(b)).max())


# Faults

WRITE_NOWHERE = 'extern "C" __global__ void write_nowhere(int *place) { *place = 1; }'


def break_card(xp: Any) -> None:
    """An illegal access, after which every call of CUDA in this process fails."""
    xp.RawKernel(WRITE_NOWHERE, "write_nowhere")((1,), (1,), (np.uint64(8),))


def lose_card(bench: Bench) -> Figures:
    """Break the card under a run's third batch: the first error must come as one line, and no other in its place."""
    batches = count(1)

    def take(rows: Any) -> Any:
        if next(batches) == min(3, bench.sizes.images // bench.sizes.batch):
            break_card(bench.xp)
        return place.take(rows)

    try:
        with ExitStack() as stack:
            sessions = open_networks(bench, stack, 1)
            place = make_resources(bench.xp, bench.images, sessions)
            cells = cells_of(bench, sessions, bench.grid.conditions[:1])
            list(run(cells, bench.grid, replace(place, take=take), last=bench.sizes.images))
    except DeviceError as error:
        print(f"  {error}")
        yield "line", int(str(error).startswith("the GPU failed: ") and "\n" not in str(error))
    else:
        raise RuntimeError("a run whose card was lost ended without an error")


def fill_card(bench: Bench) -> Figures:
    """Ask for a batch of which one copy takes twice the free memory: the line must name one that fits."""
    batch = 2 * free_memory(bench.xp) // (3 * bench.sizes.side**2 * np.dtype(np.float32).itemsize)
    # The run's own arrays are what has no room.
    session: Any = SimpleNamespace(info=SimpleNamespace(batch=batch))
    try:
        make_resources(bench.xp, bench.images, {variant_named(bench, "network", bench.sizes.precisions[0]): session})
    except DeviceError as error:
        print(f"  {error}")
        line = re.fullmatch(r"out of memory on the GPU .*batch = [1-9]\d* would fit", str(error))
        yield "line", int(line is not None)
    else:
        raise RuntimeError(f"a batch of {batch} found memory that the card has not")
