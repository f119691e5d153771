"""The device, the images and the sizes of all stages."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import platform
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from _common import photographs
from numpy.typing import NDArray

import bandlens
from bandlens.core.protocol import CLASSES
from bandlens.core.records import ImageSetInfo
from bandlens.engine.device.devices import gpus, readiness
from bandlens.engine.device.requirements import usable
from bandlens.probes.arrays import array_module
from bandlens.probes.family import Batch
from bandlens.probes.grid import PUBLISHED, Grid, make_grid
from bandlens.probes.images.image_set import ImageSet, PackedSet
from bandlens.probes.images.storage import Index

ROOT = Path(bandlens.__file__).parent


@dataclass(frozen=True, slots=True)
class Sizes:
    """The amount of work in each stage."""

    batch: int = 256
    images: int = 2048
    """Images of a run of one network."""
    shared_images: int = 256
    """Images of a run of all networks."""
    networks: int = 48
    compared: int = 64
    """Images whose rows are compared with the CPU's."""
    stride: int = 6
    """The stride of the conditions that are compared so."""
    seconds: float = 20.0
    """The time of a run; a slower card runs fewer conditions."""
    side: int = 224
    width: int = 64
    """Channels of the network's first layer."""
    rounds: int = 100
    batches: tuple[int, ...] = (256, 1024)
    """Batch sizes of TensorRT's plans."""
    precisions: tuple[str, ...] = ("fp16", "int8")
    """Precisions of TensorRT's plans, of which the first is that of the runs."""


PRETENDED = Sizes(4, 8, 4, 2, 4, 12, 0.5, 128, 8, 2, (4,), ("fp16", "fp32"))


class LeftOut(Exception):
    """A stage that this machine cannot do, and why."""


@dataclass(frozen=True)
class Bench:
    """The device, the images and the networks of all stages."""

    pretended: bool
    sizes: Sizes
    deadline: float
    """The time by which the stage is to have ended, by `time.monotonic`."""
    folder: Path
    """The folder that keeps what the stages make."""
    xp: ModuleType
    """CuPy, or what is pretended in its place."""

    @cached_property
    def grid(self) -> Grid:
        return make_grid(PUBLISHED, Path())

    @cached_property
    def images(self) -> ImageSet:
        return image_set(self.sizes.images, self.sizes.side)

    def batch(self, xp: ModuleType, count: int) -> Batch:
        """The first images, in an array module."""
        keys, rows = self.images.keys[:count], np.arange(count)
        return Batch(xp.asarray(self.images.take(rows)), xp.asarray(keys), rows, 0)

    def late(self, seconds: float) -> bool:
        """Whether so many seconds are no longer left; a line says so."""
        remaining = self.deadline - time.monotonic()
        if remaining < seconds:
            print(f"  left out: it would take about {seconds:.0f} s, and {max(remaining, 0):.0f} s are left")
        return remaining < seconds

    def require(self, engine: str) -> None:
        """LeftOut where the engine cannot be used here."""
        if not self.pretended and not readiness(engine).ready:
            raise LeftOut(readiness(engine).line)

    @cached_property
    def machine(self) -> dict[str, str]:
        """The card, the libraries and the images on which figures depend."""
        about = {"torch": version("torch"), "numpy": np.__version__, "python": platform.python_version()}
        about |= {"images": "photographs" if has_photographs() else "patches of colour"}
        if self.pretended:
            return {"card": "none: it is pretended", **about}
        gpu = usable(gpus())
        card = {"card": gpu.name, "capability": gpu.capability, "driver": gpu.driver}
        return {**card, "cupy": self.xp.__version__, **about}


def make_bench(pretended: bool, folder: Path, limit: float = math.inf) -> Bench:
    deadline = time.monotonic() + limit
    if pretended:
        return Bench(True, PRETENDED, deadline, folder, pretend_card(folder))
    usable(gpus())
    return Bench(False, Sizes(), deadline, folder, array_module("cupy"))


def pretend_card(folder: Path) -> Any:
    """Put the pretended card of the tests in the place of CuPy, TensorRT and torch.cuda, until this process ends."""
    sys.path[1:1] = [str(ROOT / "tests" / part) for part in ("card", "support")]
    import pytest
    from pretend_cupy import compile_kernels, kernel_launcher
    from pretend_gpu import pretend_gpu

    kernels = folder / "kernels.so"
    library = ctypes.CDLL(str(kernels)) if kernels.exists() else compile_kernels(folder)
    return pretend_gpu(pytest.MonkeyPatch(), kernel_launcher(library))


def has_photographs() -> bool:
    """Whether the packages are there that ship photographs and read them."""
    return all(importlib.util.find_spec(package) for package in ("skimage", "PIL"))


@dataclass(frozen=True)
class PixelArray:
    """Pixels in memory, (n, 3, side, side), in place of those of a packed set."""

    array: NDArray[np.uint8]

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(k, 3, side, side): copies of images."""
        return self.array.take(rows, axis=0, out=out, mode="clip")


def image_set(count: int, side: int) -> ImageSet:
    """Photographs over and over, or else patches of colour, labelled at random."""
    random = np.random.default_rng(0)
    pixels = photographs(count, side) if has_photographs() else patches(count, side)
    packed = PackedSet(
        folder=Path(),
        info=ImageSetInfo("made-up", "own", "", count, side, "made up", labelled=True),
        index=Index(
            paths=[f"{k}.png" for k in range(count)],
            labels=random.integers(0, CLASSES, count, np.int32),
            clusters=np.arange(count, dtype=np.int32),
            sha256s=[""] * count,
        ),
        keys=random.integers(0, 2**64, count, np.uint64),
        source=PixelArray(pixels),  # type: ignore[arg-type]
    )
    return packed.select()


def patches(count: int, side: int) -> NDArray[np.uint8]:
    """(count, 3, side, side) patches of colour at several scales."""
    random, pixels = np.random.default_rng(0), np.empty((count, 3, side, side), np.uint8)
    for picture in pixels:
        shades = random.uniform(40, 180, (3, 1, 1)) * np.ones((1, side, side))
        for cells in (4, 16, side // 2):
            cell = -(-side // cells)
            coarse = random.normal(scale=30, size=(3, cells, cells))
            shades += coarse.repeat(cell, axis=1).repeat(cell, axis=2)[:, :side, :side]
        picture[...] = shades.clip(0, 255)
    return pixels
