"""Processor time of reading a packed set's images, which are hashed the first time, beside that of ResNet-50.

`mapped`: copies of a memory map's rows, which nothing checks; `first`: ImageSet.take of a set that was just opened;
`again`: the same images of the same open set once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from _common import BATCH, MODEL, arguments, folder, image_set, machine, ratio, ratios, resnet50, spread, table, timed

from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.models import load_model
from bandlens.probes.images.image_set import open_image_set


def main() -> None:
    options = arguments(__doc__, repeats=15, quick=1, images=(256, "images, a multiple of 32"))
    count = max(options.images // BATCH, 1) * BATCH
    machine("numpy", "onnxruntime")
    with folder(options.keep) as prepared:
        resnet50(prepared / "models")
        place = image_set(prepared / f"{count}.set", count)
        batches = np.arange(count).reshape(-1, BATCH)
        buffer = np.empty((BATCH, *open_image_set(place).shape[1:]), np.uint8)
        seconds: dict[str, list[float]] = {"mapped": [], "first": [], "again": [], "resnet50": []}
        variant = variant_of(load_model(prepared / "models", MODEL), "onnxruntime", "fp32")
        with open_session(variant, BATCH, 1) as session:
            floats = np.random.default_rng(0).random(buffer.shape, np.float32)
            for _ in range(options.repeats):
                images = open_image_set(place)
                mapped = images.pixels
                works: dict[str, Callable[[], object]] = {
                    "mapped": lambda mapped=mapped: [mapped.take(rows, 0, buffer, "clip") for rows in batches],
                    "first": lambda images=images: [images.take(rows, buffer) for rows in batches],
                    "again": lambda images=images: [images.take(rows, buffer) for rows in batches],
                    "resnet50": lambda: session.infer(floats),
                }
                for name, work in works.items():
                    images_of_work = BATCH if name == "resnet50" else count
                    seconds[name].append(timed(work, time.process_time)() / images_of_work)
    rows = [[name, spread([s * 1e6 for s in values], ".0f")] for name, values in seconds.items()]
    table(["reading", "us an image"], rows)
    hashing = [first - again for first, again in zip(seconds["first"], seconds["again"], strict=True)]
    ratio("hashing over one condition of resnet50", ratios(hashing, seconds["resnet50"]), "<= 0.01")


if __name__ == "__main__":
    main()
