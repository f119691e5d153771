"""The device, the images and the sizes of all stages, and how work on a device is timed."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from bandlens.core.protocol import CLASSES
from bandlens.core.records import ImageSetInfo
from bandlens.engine.device.devices import Readiness, gpus, readiness
from bandlens.engine.device.requirements import usable
from bandlens.engine.device.streams import finish, point, seconds_between
from bandlens.probes.arrays import array_module
from bandlens.probes.family import Batch
from bandlens.probes.grid import PUBLISHED, Grid, make_grid
from bandlens.probes.images.image_set import ImageSet


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
    batches: tuple[int, ...] = (256, 32, 64, 96, 128, 512)
    """Batch sizes of TensorRT's plans."""
    precisions: tuple[str, ...] = ("fp16", "int8")
    """Precisions of TensorRT's plans."""


PRETENDED = Sizes(4, 8, 4, 2, 4, 12, 0.5, 128, 8, "fp32", 2, 64, (4,), ("fp32", "fp16"))


class LeftOut(Exception):
    """A stage that this machine cannot do, and why."""


@dataclass(frozen=True)
class Bench:
    """The device, the images and the networks of all stages."""

    pretended: bool
    sizes: Sizes
    ends: float
    """The time by which the stage is to have ended, by `time.monotonic`."""
    folder: Path
    """The folder that keeps what the stages make."""

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

    def readiness(self, engine: str) -> Readiness:
        return readiness(engine)

    def require(self, engine: str) -> None:
        """LeftOut where the engine cannot be used here."""
        if not self.readiness(engine).ready:
            raise LeftOut(self.readiness(engine).line)

    def require_card(self) -> None:
        """LeftOut on a CPU."""
        if self.xp is np:
            raise LeftOut("a CPU can do nothing of it")

    @cached_property
    def machine(self) -> dict[str, str]:
        """The card and the libraries on which figures depend."""
        about = {"torch": version("torch"), "numpy": np.__version__, "python": platform.python_version()}
        if self.pretended:
            return {"card": "none: a CPU", **about}
        gpu = usable(gpus())
        card = {"card": gpu.name, "capability": gpu.capability, "driver": gpu.driver}
        return {**card, "cupy": self.xp.__version__, **about}


def make_bench(pretended: bool, folder: Path, limit: float = math.inf) -> Bench:
    return Bench(pretended, PRETENDED if pretended else Sizes(), time.monotonic() + limit, folder)


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
