"""A first meeting with an NVIDIA GPU shows, in less than nine minutes, if its results are right and how fast it is.

`kernels`   the CUDA kernels and all 52 conditions on CuPy against NumPy: the largest deviations.
`speed`     milliseconds that the perturbations of a batch take, microseconds of `reduce_logits` and of an event between
            two streams, and CuPy's memory, which must not grow once every condition has been made.
`run`       `run()` with 1 and 48 networks in torch-cuda beside the bare loop (each network in turn on batches that lie
            ready), with the images on the card and in the host's memory; what a flush costs; and whether rows are those
            of torch and NumPy on the CPU.
`share`     the bare loop's share of the rate at which the card multiplies matrices.
`tensorrt`  plans built without and with timings, one plan opened 48 times, sessions beside back-to-back launches of
            their CUDA graph and beside trtexec, and a refit to another bias.
`others`    as `run`, with TensorRT and with ONNX Runtime.

The first four need torch, CuPy and NumPy alone, and no installed bandlens; the others `pip install '.[gpu]'`. Each
prints its figures as they come, and adds them to the JSON file as it ends; --table FILE makes of one the table that
docs/guide/gpu.md has. On a slower card a run has fewer conditions, and a line names what is left out for want of time.
The network is a ResNet-50 of random weights without BatchNorm, which exports have none of either. --pretend runs the
program on the CPU, in NumPy and torch, at sizes that say nothing: does it work?
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import _checkout  # noqa: F401 - before anything of bandlens
import numpy as np
from _common import bare_seconds
from numpy.typing import NDArray

from bandlens.engine.backends.base import Session, open_session, variant_of
from bandlens.engine.cell_progress import CellProgress
from bandlens.engine.decision import reduce_logits
from bandlens.engine.device.devices import gpus, readiness
from bandlens.engine.device.pixels import resident, streamed
from bandlens.engine.device.requirements import usable
from bandlens.engine.device.streams import finish, new_stream, point, seconds_between, wait_for
from bandlens.engine.run import make_resources, run
from bandlens.errors import BandlensError
from bandlens.probes.arrays import array_module, to_numpy
from bandlens.probes.bilateral import BILATERAL
from bandlens.probes.family import Batch
from bandlens.probes.grid import PUBLISHED, Grid, make_grid
from bandlens.probes.images.image_set import ImageSet
from bandlens.probes.noise import random_words, unit_normal_fields
from bandlens.protocol import CLASSES
from bandlens.records import Cell, Condition, Finished, ImageSetInfo, Model, Variant
from bandlens.untrusted import first_line

GRID = 48 * 52 * 50_000
"""Inferences of the whole study."""
GFLOP = 8.18
"""Operations of an image of 224 pixels: 4.09 G multiplications, each with an addition."""
TIE = 1e-4
"""Scores this close, relative to the largest, may change places between a card and a CPU."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The amount of work in each stage."""

    batch: int = 256
    images: int = 2048
    """Images of a run of one network."""
    few: int = 256
    """Images of a run of all networks."""
    networks: int = 48
    compared: int = 64
    """Images whose rows are compared with the CPU's."""
    every: int = 6
    """The stride of the conditions that are compared so."""
    seconds: float = 20.0
    """The time of a run; a slower card runs fewer conditions."""
    side: int = 224
    width: int = 64
    """Channels of the network's first layer."""
    precision: str = "fp16"
    rounds: int = 100
    matrix: int = 8192
    batches: tuple[int, ...] = (256, 512, 128, 64)
    """Batch sizes of TensorRT's plans."""
    precisions: tuple[str, ...] = ("fp16", "int8")
    """Precisions of TensorRT's plans."""


PRETENDED = Sizes(4, 8, 4, 2, 4, 12, 0.5, 128, 8, "fp32", 2, 64, (4,), ("fp32",))


NOT_PREDICTED = "-"


class Figure(NamedTuple):
    """A row of the table in docs/guide/gpu.md."""

    what: str
    unit: str
    predicted: str = NOT_PREDICTED


def runs_of(stage: str, engine: str, single: str = NOT_PREDICTED, many: str = NOT_PREDICTED) -> dict[str, Figure]:
    """The rows about whole runs; what is predicted is with the images on the card."""
    figures = {}
    for label, networks, predicted in (("1", "1 network", single), ("48", "48 networks", many)):
        name = f"{engine} fp16, {networks}: "
        figures[f"{stage}.{engine}.{label}.bare"] = Figure(name + "bare loop", "images/s")
        figures[f"{stage}.{engine}.{label}.resident"] = Figure(
            name + "run over it, images on the card", "ratio", predicted
        )
        figures[f"{stage}.{engine}.{label}.streamed"] = Figure(name + "run over it, images streamed", "ratio")
    return figures


FIGURES: Mapping[str, Figure] = {
    "kernels.words": Figure("random words that differ from NumPy's", "", "0"),
    "kernels.normals": Figure("normal noise, largest deviation", "", "2e-6"),
    "kernels.bilateral": Figure("bilateral filter, largest deviation", "", "2e-6"),
    "kernels.reduced": Figure("classes and ranks that `reduce_logits` gives and NumPy does not", "", "0"),
    "kernels.confidence": Figure("confidence, largest deviation", "", "2e-6"),
    "kernels.spectral": Figure("22 spectral conditions, largest deviation", ""),
    "kernels.band": Figure("29 critical-band conditions, largest deviation", ""),
    "speed.spectral": Figure("22 spectral conditions of a batch of 256", "ms", "6.2"),
    "speed.band": Figure("29 critical-band conditions of a batch of 256", "ms", "4.4"),
    "speed.reduce": Figure("`reduce_logits` of a batch of 256", "us", "4"),
    "speed.hop": Figure("an event between two streams", "us"),
    "speed.pool": Figure("CuPy's memory for the perturbations", "GiB"),
    "speed.growth": Figure("memory that CuPy takes once every condition has been made", "bytes", "0"),
    "run.differ": Figure("rows in torch-cuda fp32 that are not the CPU's", "", "0"),
    "run.flush": Figure("a flush of a minute of 48 networks, without storing", "s"),
    **runs_of("run", "torch-cuda"),
    **runs_of("others", "tensorrt", "0.94 to 0.97", "0.95 or more"),
    "share.fp16": Figure("products of matrices in fp16", "TFLOP/s"),
    "share.fp32": Figure("products of matrices in fp32, without TF32", "TFLOP/s"),
    "share.torch": Figure("share of the fp16 rate that torch-cuda's bare loop reaches", "ratio"),
    "tensorrt.first": Figure("building an fp16 plan", "s"),
    "tensorrt.again": Figure("building it again with its timings", "s"),
    "tensorrt.open": Figure("opening one plan 48 times", "s"),
    "tensorrt.fp16.256": Figure("TensorRT fp16, sessions at batch 256", "images/s", "39,400"),
    "tensorrt.int8.256": Figure("TensorRT int8, sessions at batch 256", "images/s", "45,000 to 65,000"),
    "tensorrt.fp16.256.graphs": Figure("fp16 sessions over back-to-back launches of their CUDA graph", "ratio"),
    "tensorrt.fp16.256.trtexec": Figure("fp16 sessions over trtexec", "ratio"),
    "tensorrt.grid": Figure("the grid in fp16: 48 networks, 52 conditions, 50,000 images", "min", "53"),
    "tensorrt.refit": Figure("whether a plan that is refitted to another bias is accepted", "", "1"),
}  # fmt: skip
"""Each figure that the table has, and what was predicted of it for an H100 before any GPU had been met."""


@dataclass(frozen=True)
class Bench:
    """The device, the images and the networks of all stages."""

    pretended: bool
    sizes: Sizes
    ends: float
    """The time by which the program is to have ended, by `time.monotonic`."""
    folder: Path
    """The folder in which files may be made."""

    @property
    def engine(self) -> str:
        return "torch" if self.pretended else "torch-cuda"

    @cached_property
    def xp(self) -> ModuleType:
        return np if self.pretended else array_module("cupy")

    @cached_property
    def grid(self) -> Grid:
        return make_grid(PUBLISHED, Path())

    @cached_property
    def images(self) -> ImageSet:
        return made_up_images(self.sizes.images, self.sizes.side)

    @cached_property
    def exported(self) -> list[Model]:
        return exported(self)

    def batch(self, xp: ModuleType, count: int) -> Batch:
        """The first images, in an array module."""
        keys, rows = self.images.keys[:count], np.arange(count)
        return Batch(xp.asarray(self.images.take(rows)), xp.asarray(keys), rows, 0)

    def late(self, needed: float) -> bool:
        """Whether so many seconds are no longer left; a line says so."""
        remaining = self.ends - time.monotonic()
        if remaining < needed:
            print(f"  left out: it would take about {needed:.0f} s, and {max(remaining, 0):.0f} s are left")
        return remaining < needed


@dataclass(frozen=True)
class MadeUpPixels:
    """Pixels in memory, (n, 3, side, side), in place of those of a packed set."""

    array: NDArray[np.uint8]

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(k, 3, side, side): copies of images."""
        return self.array.take(rows, axis=0, out=out, mode="clip")


def made_up_images(count: int, side: int) -> ImageSet:
    """Patches of colour at several scales, labelled at random."""
    random = np.random.default_rng(0)
    pixels = np.empty((count, 3, side, side), np.uint8)
    for picture in pixels:
        shades = random.uniform(40, 180, (3, 1, 1)) * np.ones((1, side, side))
        for patches in (4, 16, side // 2):
            cell = -(-side // patches)
            coarse = random.normal(scale=30, size=(3, patches, patches))
            shades += coarse.repeat(cell, axis=1).repeat(cell, axis=2)[:, :side, :side]
        picture[...] = shades.clip(0, 255)
    return ImageSet(
        info=ImageSetInfo("made-up", "own", "", count, side, "made up", labelled=True),
        labels=random.integers(0, CLASSES, count, np.int32),
        schemes={},
        clusters=np.arange(count, dtype=np.int32),
        keys=random.integers(0, 2**64, count, np.uint64),
        paths=[f"{k}.png" for k in range(count)],
        class_names=None,
        folder=Path(),
        skipped={},
        ignored=0,
        source=MadeUpPixels(pixels),  # type: ignore[arg-type]
    )


def seconds_of(xp: ModuleType, work: Callable[[], object], rounds: int) -> float:
    """Seconds that the device takes for the work, after two rounds that do not count."""
    for _ in range(2):
        work()
    finish(xp)
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    finish(xp)
    return (time.perf_counter() - started) / rounds


MOST_LAUNCHES = 100
"""Rounds of small work that a card is asked for ahead: its queue holds 1,024 launches, and a full one stops Python."""
COVER = 1 << 24
"""Numbers of an array, to which one is added over and over while Python asks for what is timed."""


def device_seconds(xp: ModuleType, work: Callable[[], object], rounds: int) -> float:
    """Seconds that the device takes for small work in this thread's stream, without those that Python takes to ask.

    The work waits behind other work that takes longer than asking does, so that the device has all of it at hand.
    """
    if xp is np:
        return seconds_of(xp, work, rounds)
    rounds, cover = min(rounds, MOST_LAUNCHES), xp.zeros(COVER, dtype=xp.float32)
    covered = seconds_of(xp, lambda: xp.add(cover, 1, out=cover), 3)
    asked = []
    for _ in range(2):  # the first time kernels are compiled
        started = time.perf_counter()
        for _ in range(rounds):
            work()
        asked.append(time.perf_counter() - started)
        finish(xp)
    for _ in range(math.ceil(2 * asked[1] / covered)):
        xp.add(cover, 1, out=cover)
    begin = point(xp)
    for _ in range(rounds):
        work()
    end = point(xp)
    finish(xp)
    return seconds_between(xp, begin, end) / rounds


# kernels


def kernels(bench: Bench) -> Iterator[tuple[str, float]]:
    xp, sizes = bench.xp, bench.sizes
    host, card = (bench.batch(module, min(16, sizes.batch)) for module in (np, xp))
    words = [to_numpy(random_words(module, 3, batch.keys, 5, 4096)) for module, batch in ((np, host), (xp, card))]
    yield "words", int((words[0] != words[1]).sum())
    fields = (unit_normal_fields(module, 3, batch.keys, 0, sizes.side) for module, batch in ((np, host), (xp, card)))
    yield "normals", apart(*fields)
    smooth = BILATERAL.conditions({"d": 5, "sigma_color": 75.0})
    yield "bilateral", largest(xp, BILATERAL.perturb, smooth, host, card)
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


# speed


def speed(bench: Bench) -> Iterator[tuple[str, float]]:
    xp, sizes = bench.xp, bench.sizes
    with new_stream(xp):
        batch = bench.batch(xp, sizes.batch)
        buffers = cycle([xp.empty(batch.pixels.shape, dtype=xp.float32) for _ in range(4)])

        def perturbed(perturb: Any, conditions: Sequence[Condition]) -> None:
            for _ in perturb(xp, batch, conditions, buffers.__next__):
                pass

        groups = bench.grid.groups(bench.grid.conditions)
        for perturb, conditions in groups:
            taken = seconds_of(xp, lambda: perturbed(perturb, conditions), max(sizes.rounds // 10, 1))  # noqa: B023
            yield GROUPS[conditions[0].probe], taken * 1e3
        before = pool_bytes(xp)
        for perturb, conditions in groups:
            perturbed(perturb, conditions)
        finish(xp)
        yield "pool", pool_bytes(xp) / 2**30
        yield "growth", pool_bytes(xp) - before
        logits = xp.zeros((sizes.batch, CLASSES), dtype=xp.float32)
        labels = xp.zeros(sizes.batch, dtype=xp.int32)
        yield "reduce", device_seconds(xp, lambda: reduce_logits(xp, logits, labels), sizes.rounds) * 1e6
        yield "hop", hop_seconds(xp, sizes.rounds) * 1e6


def pool_bytes(xp: ModuleType) -> int:
    """The memory that CuPy has taken from the card."""
    return 0 if xp is np else int(xp.get_default_memory_pool().total_bytes())


def hop_seconds(xp: ModuleType, rounds: int) -> float:
    """How much longer small work takes where it goes to and fro between two streams."""
    small, [stream_a, stream_b] = xp.zeros(32, dtype=xp.float32), [new_stream(xp) for _ in range(2)]

    def ask(stream: Any) -> Any:
        with stream:
            for _ in range(2):
                xp.add(small, 1, out=small)
            return point(xp)

    def to_and_fro() -> None:
        for first, second in ((stream_a, stream_b), (stream_b, stream_a)):
            reached = ask(first)
            with second:
                wait_for(xp, reached)

    def alone() -> None:
        for _ in range(2):
            ask(stream_a)

    with stream_a:
        taken_alone, taken = (device_seconds(xp, work, rounds) for work in (alone, to_and_fro))
    return (taken - taken_alone) / 2


# run


def runs(bench: Bench) -> Iterator[tuple[str, float]]:
    with ExitStack() as stack:
        yield "differ", rows_that_differ(bench)
        sessions = open_networks(bench, stack, bench.sizes.networks)
        yield "flush", flush_seconds(bench, sessions)
        for name, value in over_bare(bench, sessions):
            yield f"torch-cuda.{name}", value


def over_bare(bench: Bench, sessions: Mapping[Variant, Session]) -> Iterator[tuple[str, float]]:
    """The bare loop's images a second, and what the run reaches of it, for one session and for all of them."""
    sizes, xp = bench.sizes, bench.xp
    for label, count, last in (("1", 1, sizes.images), ("48", len(sessions), sizes.few)):
        if bench.late(4 * sizes.seconds):
            continue
        chosen = dict(list(sessions.items())[:count])
        place = make_resources(xp, bench.images, chosen)
        takes = {"resident": bench.images.take, "streamed": bench.images.take}
        if xp is not np:
            takes = {"resident": resident(xp, bench.images), "streamed": streamed(xp, bench.images, sizes.batch)}
        bare = bare_seconds(list(chosen.values()), xp, place.arrays, max(sizes.rounds // count, 1))
        yield f"{label}.bare", sizes.batch / bare
        every = bare * count * len(bench.grid.conditions) * last / sizes.batch / sizes.seconds
        conditions = bench.grid.conditions[:: math.ceil(every)]
        first = cells_of(bench, dict(list(chosen.items())[:1]), conditions)
        list(run(first, bench.grid, place, last=sizes.batch))  # kernels are compiled
        cells = cells_of(bench, chosen, conditions)
        for where, take in takes.items():
            started = time.perf_counter()
            list(run(cells, bench.grid, replace(place, take=take), last=last))
            yield f"{label}.{where}", bare * len(cells) * last / sizes.batch / (time.perf_counter() - started)


def cells_of(
    bench: Bench, sessions: Mapping[Variant, Session], conditions: Sequence[Condition]
) -> list[tuple[Cell, int]]:
    return [(Cell(variant, bench.images.info, condition, 0), 0) for condition in conditions for variant in sessions]


def open_networks(bench: Bench, stack: ExitStack, count: int, precision: str | None = None) -> dict[Variant, Session]:
    """So many sessions in torch, each with a bias of its own."""
    from bandlens.engine.backends.torch import open_session

    network = resnet50(bench.sizes.width, bench.batch(np, min(bench.sizes.compared, bench.sizes.images)).pixels)
    sessions: dict[Variant, Session] = {}
    for number in range(count):
        variant = variant_named(bench, f"network-{number}", precision or bench.sizes.precision)

        def loaded(variant: Variant, device: str, number: int = number) -> Any:
            clone = copy.deepcopy(network)
            clone.classify.bias.data += number / 1000
            return clone.in_precision(variant.precision).to(device)

        sessions[variant] = stack.enter_context(open_session(variant, bench.sizes.batch, 1, loaded))
    return sessions


def variant_named(bench: Bench, name: str, precision: str) -> Variant:
    model = Model(name, "own", "resnet50", name, "random", "none", Path(name), name, bench.sizes.side, CLASSES)
    return Variant(model, bench.engine, precision, Path(name), name)


def resnet50(width: int, pixels: NDArray[np.uint8]) -> Any:
    """A ResNet-50 of random weights, in torch; its classes are balanced on the (n, 3, size, size) images."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, middle: int, stride: int) -> None:
            super().__init__()
            self.reduce = nn.Conv2d(inputs, middle, 1)
            self.mix = nn.Conv2d(middle, middle, 3, stride, 1)
            self.expand = nn.Conv2d(middle, 4 * middle, 1)
            self.beside = nn.Conv2d(inputs, 4 * middle, 1, stride) if inputs != 4 * middle else nn.Identity()

        def forward(self, images: Any) -> Any:
            inner = self.mix(self.reduce(images).relu_()).relu_()
            return self.expand(inner).add_(self.beside(images)).relu_()

    class ResNet50(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
            self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
            self.begin = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
            blocks, inputs = [], width
            for level, count in enumerate((3, 4, 6, 3)):
                for k in range(count):
                    blocks.append(Block(inputs, width << level, 2 if level and not k else 1))
                    inputs = 4 * (width << level)
            self.blocks = nn.Sequential(*blocks)
            self.classify = nn.Linear(inputs, CLASSES)

        def in_precision(self, precision: str) -> Any:
            """Normalization stays in float32, as in an export."""
            layers = self.begin, self.blocks, self.classify
            for layer in layers:
                layer.to({"fp16": torch.float16}.get(precision, torch.float32), memory_format=torch.channels_last)
            return self

        def forward(self, images: Any) -> Any:
            normal = ((images - self.mean) / self.std).to(self.classify.weight.dtype)
            return self.classify(self.blocks(self.begin(normal)).mean((2, 3))).float()

    torch.manual_seed(0)
    network = ResNet50().eval().requires_grad_(False)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if name.endswith("expand"):  # without BatchNorm, sums of branches would grow from block to block
                module.weight *= 0.2
    logits = network(torch.from_numpy(pixels).float() / 255)
    network.classify.weight /= logits.std(0).mean()
    network.classify.bias -= (logits / logits.std(0).mean()).mean(0)
    return network


def rows_that_differ(bench: Bench) -> int:
    """The number of rows in fp32, of images under some conditions, that no rounding explains."""
    import torch

    sizes, xp = bench.sizes, bench.xp
    conditions = bench.grid.conditions[:: sizes.every]
    with ExitStack() as stack:
        sessions = open_networks(bench, stack, 1, "fp32")
        cells = cells_of(bench, sessions, conditions)
        predictions: dict[Condition, list[Any]] = {condition: [] for condition in conditions}
        for outcomes in run(cells, bench.grid, make_resources(xp, bench.images, sessions), last=sizes.compared):
            for outcome in outcomes:
                assert isinstance(outcome, Finished), outcome
                predictions[outcome.cell.condition].append(outcome.predictions)
    host = bench.batch(np, sizes.compared)
    labels = bench.images.labels[: sizes.compared]  # type: ignore[index]
    network, differ = resnet50(sizes.width, host.pixels), 0
    for perturb, members in bench.grid.groups(conditions):
        for condition, images in perturb(np, host, members, lambda: np.empty(host.pixels.shape, np.float32)):
            with torch.no_grad():
                logits = network(torch.from_numpy(images)).numpy()
            predicted, ranks = (
                np.concatenate([getattr(part, column) for part in predictions[condition]])
                for column in ("predicted", "label_rank")
            )
            differ += int((~possible(logits, labels, predicted, ranks)).sum())
    return differ


def possible(
    logits: NDArray[np.float32], labels: NDArray[np.int32], predicted: NDArray[Any], ranks: NDArray[Any]
) -> NDArray[np.bool_]:
    """Whether logits that differ from these by TIE of the largest can give each row's class and rank."""
    near, rows = TIE * np.abs(logits).max(), np.arange(len(logits))
    scores = logits[rows, labels][:, None]
    fewest, most = (logits > scores + near).sum(1), (logits >= scores - near).sum(1) - 1
    return (logits[rows, predicted] >= logits.max(1) - near) & (fewest <= ranks) & (ranks <= most)


def flush_seconds(bench: Bench, sessions: Mapping[Variant, Session]) -> float:
    """How long the card idles while a minute's columns of all networks are fetched, 7 batches of 29 conditions."""
    xp, sizes = bench.xp, bench.sizes
    works = []
    for cell, _ in cells_of(bench, sessions, bench.grid.conditions[-29:]):
        work = CellProgress(cell, 0)
        for _ in range(7):
            columns = [xp.zeros(sizes.batch, dtype=kind) for kind in (xp.uint16, xp.uint16, xp.float32)]
            work.columns.append((columns[0], columns[1], columns[2]))
            work.times.append((point(xp), point(xp)))
            work.pending += sizes.batch
        works.append(work)
    finish(xp)
    started = time.perf_counter()
    for work in works:
        work.flush(xp)
    return time.perf_counter() - started


# share


def share(bench: Bench) -> Iterator[tuple[str, float]]:
    import torch

    from bandlens.engine.backends.torch import CARD, exact

    device, side, rates = "cpu" if bench.pretended else CARD, bench.sizes.matrix, {}
    with exact(1):
        for precision, kind in (("fp16", torch.float16), ("fp32", torch.float32)):
            matrix = torch.randn(side, side, dtype=torch.float32, device=device).to(kind)

            def finished() -> None:
                if not bench.pretended:
                    torch.cuda.synchronize()

            torch.matmul(matrix, matrix)
            finished()
            started = time.perf_counter()
            for _ in range(bench.sizes.rounds // 5 + 1):
                torch.matmul(matrix, matrix)
            finished()
            taken = (time.perf_counter() - started) / (bench.sizes.rounds // 5 + 1)
            rates[precision] = 2 * side**3 / taken / 1e12
            yield precision, rates[precision]
    with ExitStack() as stack:
        sessions = open_networks(bench, stack, 1)
        ready = [bench.xp.zeros((bench.sizes.batch, *bench.images.shape[1:]), dtype=np.float32) for _ in range(2)]
        bare = bare_seconds(list(sessions.values()), bench.xp, ready, bench.sizes.rounds)
        yield "torch", bench.sizes.batch / bare * GFLOP / 1e3 / rates[bench.sizes.precision]


# tensorrt


def exported(bench: Bench) -> list[Model]:
    """The network as two exported models that differ in a bias, with files in fp16 and int8."""
    from _common import photographs, resnet50_with_biases

    from bandlens.export.onnx.precisions import Calibration, make_onnx_file

    models = resnet50_with_biases(bench.folder / "models", 2)
    pixels = photographs(100).astype(np.float32) / np.float32(255)
    for model in models:
        for precision in bench.sizes.precisions:
            calibration = Calibration("photographs", "", pixels) if precision == "int8" else None
            make_onnx_file(model, precision, calibration)
    return models


def open_files(bench: Bench, stack: ExitStack, engine: str, count: int) -> dict[Variant, Session]:
    """One exported file, opened as so many models."""
    variant = variant_of(bench.exported[0], engine, bench.sizes.precision)
    names = [f"{variant.model.name}-{k}" for k in range(count)]
    variants = [replace(variant, model=replace(variant.model, name=name)) for name in names]
    return {variant: stack.enter_context(open_session(variant, bench.sizes.batch, 0)) for variant in variants}


def tensorrt(bench: Bench) -> Iterator[tuple[str, float]]:
    if not readiness("tensorrt").ready:
        print(f"  left out: {readiness('tensorrt').line}")
        return
    from bandlens.engine.backends.tensorrt import device_of
    from bandlens.export.onnx.files import load_onnx_file
    from bandlens.export.plans.plans import ensure_trt_plan

    sizes, device = bench.sizes, device_of("tensorrt")
    model, refit_model = bench.exported
    onnx_file, target = load_onnx_file(model, sizes.precision), device.target(sizes.batch)
    for name in ("first", "again"):
        started = time.perf_counter()
        trt_plan = ensure_trt_plan(device.trt, onnx_file, target)
        yield name, time.perf_counter() - started
        if name == "first":  # the plan's description goes, and the timings stay
            trt_plan.path.with_suffix(".json").unlink()
    with ExitStack() as stack:
        started = time.perf_counter()
        open_files(bench, stack, "tensorrt", sizes.networks)
        finish(bench.xp)
        yield "open", time.perf_counter() - started
    yield from _session_rates(bench, model)
    if not bench.late(60):
        refittable = device.target(sizes.batch, refit=True)
        ensure_trt_plan(device.trt, load_onnx_file(refit_model, sizes.precision), refittable)
        started = time.perf_counter()
        with open_session(variant_of(refit_model, "tensorrt", sizes.precision), sizes.batch, 0) as session:
            yield "refit", int(json.loads(session.info.versions)["refitted"])
        yield "refit_seconds", time.perf_counter() - started


def _session_rates(bench: Bench, model: Model) -> Iterator[tuple[str, float]]:
    """Images a second of sessions at every batch, in fp16 and int8, and of what is as fast as can be."""
    from bandlens.engine.backends.tensorrt import TensorRTSession, device_of
    from bandlens.export.onnx.files import load_onnx_file
    from bandlens.export.plans.plans import ensure_trt_plan

    sizes, xp, device = bench.sizes, bench.xp, device_of("tensorrt")
    for batch in sizes.batches:
        for precision in sizes.precisions:
            if bench.late(45):
                return
            with open_session(variant_of(model, "tensorrt", precision), batch, 0) as session, new_stream(xp):
                assert isinstance(session, TensorRTSession)
                ready = [xp.zeros((batch, *bench.images.shape[1:]), dtype=np.float32) for _ in range(2)]
                rate = batch / bare_seconds([session], xp, ready, sizes.rounds)
                yield f"{precision}.{batch}", rate
                launch = session.capture(ready[0])
                launch()
                device.stream.synchronize()
                started = time.perf_counter()
                for _ in range(sizes.rounds):
                    launch()
                device.stream.synchronize()
                yield f"{precision}.{batch}.graphs", rate * (time.perf_counter() - started) / sizes.rounds / batch
                trt_plan = ensure_trt_plan(device.trt, load_onnx_file(model, precision), device.target(batch))
                if (best := trtexec_rate(trt_plan.path, batch)) is not None:
                    yield f"{precision}.{batch}.trtexec", rate / best
            if (precision, batch) == (sizes.precision, sizes.batch):
                yield "grid", GRID / rate / 60


def trtexec_rate(trt_plan: Path, batch: int) -> float | None:
    """Images a second by NVIDIA's own program; None where it is not installed, or does not say."""
    program = shutil.which("trtexec")
    if program is None:
        print("  trtexec is not installed")
        return None
    options = ["--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--duration=3"]
    result = subprocess.run([program, f"--loadEngine={trt_plan}", *options], capture_output=True, text=True, timeout=60)
    match = re.search(r"Throughput: ([\d.]+) qps", result.stdout)
    return float(match[1]) * batch if match else None


# others


def others(bench: Bench) -> Iterator[tuple[str, float]]:
    for engine in ("tensorrt", "onnxruntime-cuda"):
        if not readiness(engine).ready:
            print(f"  {engine} is left out: {readiness(engine).line}")
        elif not bench.late(120):
            with ExitStack() as stack:
                for name, value in over_bare(bench, open_files(bench, stack, engine, bench.sizes.networks)):
                    yield f"{engine}.{name}", value


# The whole program

STAGES: Mapping[str, Callable[[Bench], Iterator[tuple[str, float]]]] = {
    "kernels": kernels,
    "speed": speed,
    "share": share,
    "run": runs,
    "tensorrt": tensorrt,
    "others": others,
}


def machine(bench: Bench) -> dict[str, Any]:
    """The card and the libraries on which figures depend."""
    import torch

    about = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    if bench.pretended:
        return {"card": "none: a CPU", **about}
    gpu = usable(gpus())
    return {"card": gpu.name, "capability": gpu.capability, "driver": gpu.driver, "cupy": bench.xp.__version__, **about}


def measure(bench: Bench, stages: Sequence[str], file: Path) -> bool:
    """Run the stages, print and write as each ends, and say whether none failed; a failure leaves the others alone."""
    results: dict[str, Any] = {"machine": machine(bench), "sizes": asdict(bench.sizes), "figures": {}, "seconds": {}}
    results = json.loads(json.dumps(results | {"failed": {}}))  # this is how they will be read again
    with suppress(OSError, ValueError):
        before = json.loads(file.read_text(encoding="utf-8"))
        if all(before[key] == results[key] for key in ("machine", "sizes")):  # it has other stages' figures
            results = before
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    for stage in stages:
        print(f"\n{stage}")
        results["failed"].pop(stage, None)
        started = time.perf_counter()
        try:
            for name, value in STAGES[stage](bench):
                results["figures"][f"{stage}.{name}"] = value
                print(f"  {described(f'{stage}.{name}', value, bench.pretended)}", flush=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other stages are measured
            results["failed"][stage] = traceback.format_exc()
            print(f"  failed: {first_line(error)}", flush=True)
        results["seconds"][stage] = time.perf_counter() - started
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
        partial.replace(file)
        print(f"  {results['seconds'][stage]:.1f} s; written: {file}", flush=True)
    return not any(stage in results["failed"] for stage in stages)


def described(key: str, value: float, pretended: bool) -> str:
    figure = FIGURES.get(key)
    if figure is None:
        return f"{key}: {value:.4g}"
    predicted = "" if pretended or figure.predicted == "-" else f" (predicted: {figure.predicted})"
    return f"{figure.what}: {value:.4g} {figure.unit}".rstrip() + predicted


def made_table(figures: Mapping[str, float]) -> str:
    """The list of docs/guide/gpu.md: a line for each figure that was predicted for an H100 or measured."""
    lines = []
    for key, figure in FIGURES.items():
        measured = f"; {figures[key]:.4g} measured" if key in figures else ""
        if measured or figure.predicted != NOT_PREDICTED:
            lines.append(f"- {figure.what}: {' '.join(filter(None, (figure.predicted, figure.unit)))}{measured}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=STAGES, help="this one alone; may be given several times")
    parser.add_argument("--json", type=Path, default=Path("gpu_first.json"), help="file for the figures")
    parser.add_argument("--minutes", type=float, default=9.0, help="what would end later is left out (default 9)")
    parser.add_argument("--pretend", action="store_true", help="on the CPU, at tiny sizes: does it work")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of figures, and no more")
    return parser.parse_args()


def main() -> None:
    started, options = time.monotonic(), arguments()
    if options.table:
        print(made_table(json.loads(options.table.read_text(encoding="utf-8"))["figures"]))
        return
    sizes = PRETENDED if options.pretend else Sizes()
    with tempfile.TemporaryDirectory(prefix="bandlens-benchmark-") as folder:
        bench = Bench(options.pretend, sizes, started + 60 * options.minutes, Path(folder))
        try:
            whole = measure(bench, options.stage or list(STAGES), options.json)
        except (BandlensError, ImportError) as error:  # there is no GPU, or no torch
            sys.exit(str(error))
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
