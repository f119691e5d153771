"""Packing photographs of ImageNet's size, against torchvision with as many workers.

`torchvision`: ImageFolder, Resize(256), CenterCrop(224), PILToTensor, in a DataLoader with worker processes; each batch
is written to its rows of a memory-mapped .npy file. `not written`: the same without that file.
`bandlens`: probes.images.pack with as many threads, which writes the same pixels, their hashes and an index.

The photographs are JPEGs of 500 x 375 pixels, a quarter of them upright: crops of those that come along. Both
times are printed: of the clock, and of the processors with the workers' processes, which other work disturbs less.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from _common import arguments, folder, in_turn, machine, ratio, ratios, spread, table, timed, with_processor
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from bandlens.export.reference_images import PHOTOGRAPH_FOLDER, PHOTOGRAPHS
from bandlens.probes.images.pack import pack
from bandlens.probes.images.pack_options import How

QUALITY = 97
"""Quality of JPEG at which photographs take about 110 kB, as ImageNet's do."""


def write_photographs(out: Path, count: int) -> Path:
    """Write `count` JPEGs into ten class folders; a folder that is there already is taken."""
    if out.exists():
        return out
    random = np.random.default_rng(0)
    pictures = [Image.open(PHOTOGRAPH_FOLDER / name).convert("RGB") for name in PHOTOGRAPHS]
    for number in range(count):
        photograph = pictures[number % len(pictures)]
        wide, high = (375, 500) if number % 4 == 0 else (500, 375)
        scale = min(photograph.width / wide, photograph.height / high) * random.uniform(0.7, 1)
        x = random.uniform(0, photograph.width - scale * wide)
        y = random.uniform(0, photograph.height - scale * high)
        box = (x, y, x + scale * wide, y + scale * high)
        file = out / f"{number % 10}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize((wide, high), Image.Resampling.LANCZOS, box).save(file, quality=QUALITY)
    return out


def loader(photographs: Path, workers: int) -> DataLoader[Any]:
    transform = Compose([Resize(256), CenterCrop(224), PILToTensor()])
    return DataLoader(torchvision.datasets.ImageFolder(photographs, transform), batch_size=50, num_workers=workers)


def load(photographs: Path, workers: int) -> None:
    for _ in loader(photographs, workers):
        pass


def load_and_write(photographs: Path, out: Path, workers: int) -> None:
    batches = loader(photographs, workers)
    pixels = np.lib.format.open_memmap(out, "w+", np.uint8, (len(batches.dataset), 3, 224, 224))
    first = 0
    for batch, _ in batches:
        pixels[first : first + len(batch)] = batch.numpy()
        first += len(batch)
    pixels.flush()


def with_bandlens(photographs: Path, out: Path, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    pack(photographs, out, how=How(workers=workers))


def difference(name: str, pixels: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    deviation = np.abs(pixels.astype(np.int16) - expected)
    print(f"{name}: {np.mean(deviation > 0):.3%} of the values are not torchvision's, by at most {deviation.max()}")


def main() -> None:
    options = arguments(__doc__, repeats=7, quick=1, workers=(2, "threads, and worker processes"))
    torch.set_num_threads(1)
    machine("pillow", "torch", "torchvision")
    with folder(options.keep) as prepared:
        count = 60 if options.quick else 600
        photographs = write_photographs(prepared / f"{count}", count)
        sizes = [file.stat().st_size for file in photographs.rglob("*.jpg")]
        print(f"{count} photographs, {np.mean(sizes) / 1e3:.0f} kB on average; {options.workers} workers\n")
        reference, exact = prepared / "torchvision.npy", prepared / "exact"
        works = {
            "torchvision": lambda: load_and_write(photographs, reference, options.workers),
            "torchvision, not written": lambda: load(photographs, options.workers),
            "bandlens": lambda: with_bandlens(photographs, exact, options.workers),
        }
        cpu: dict[str, list[float]] = {name: [] for name in works}
        variants = {name: with_processor(timed(work), cpu[name]) for name, work in works.items()}
        seconds = in_turn(variants, options.repeats)
        cpu = {name: values[-options.repeats :] for name, values in cpu.items()}  # without what warmed up
        table(
            ["packing", "images/s", "processor ms an image"],
            [
                [name, spread([count / s for s in seconds[name]], ".0f"), [s * 1e3 / count for s in cpu[name]]]
                for name in works
            ],
        )
        expected = np.load(reference, mmap_mode="r")
        difference("bandlens", np.load(exact / "pixels.npy"), expected)
        for rival in ("torchvision", "torchvision, not written"):
            ratio(f"{rival} over bandlens, clock", ratios(seconds[rival], seconds["bandlens"]), ">= 1.2")
            ratio(f"{rival} over bandlens, processors", ratios(cpu[rival], cpu["bandlens"]), ">= 1.2")


if __name__ == "__main__":
    main()
