"""Processor time of the features that a head is trained on, over a bare loop of ONNX Runtime; and of fitting a head.

The network is EfficientNet-Lite0 without its classifier, 1,280 features, with random weights, and with --quick a single
convolution. The bare loop runs it on the same images, which lie ready in memory.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import onnxruntime
import timm
from _common import BATCH, arguments, folder, image_set, in_turn, machine, ratio, ratios, table, timed
from torch import nn

from bandlens.export.heads.linear import METHODS, fit_head
from bandlens.export.heads.recipes import TrainingImages, compute_features
from bandlens.export.model_files import NORMALIZATIONS
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.probes.images.image_set import open_image_set

SHAPES = (1000, 1280), (10_000, 384)
"""Images and features of the heads that are fitted, of ten classes."""


def main() -> None:
    options = arguments(__doc__, repeats=7, quick=1, images=(320, "images, a multiple of 32"))
    count = BATCH if options.quick else options.images
    machine("numpy", "scipy", "onnxruntime")
    with folder(options.keep) as prepared:
        network = (
            nn.Sequential(nn.Conv2d(3, 32, 7, stride=4), nn.AvgPool2d(55), nn.Flatten())
            if options.quick
            else timm.create_model("efficientnet_lite0", pretrained=False, num_classes=0)
        )
        content, _ = to_onnx(Normalized(network.eval(), *NORMALIZATIONS["imagenet"]).eval(), 224)
        place = image_set(prepared / f"{count}.set", count)
        labels = np.arange(count, dtype=np.int32) % 10
        ready = [open_image_set(place).take(rows) / np.float32(255) for rows in np.arange(count).reshape(-1, BATCH)]

        def bare() -> None:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            for batch in ready:
                session.run(None, {"images": batch})

        def features() -> None:
            packed = open_image_set(place)  # each image is hashed, as when a command reads it
            images = TrainingImages("", "", 224, "", labels, packed.clusters, packed.keys, None, packed.take)
            compute_features(content, images)

        works = {"bare": bare, "features": features}
        variants = {name: timed(work, time.process_time) for name, work in works.items()}
        seconds = in_turn(variants, options.repeats)
    ratio("a bare loop over features", ratios(seconds["bare"], seconds["features"]), ">= 0.97")
    rows = []
    for number, size in ((100, 20),) if options.quick else SHAPES:
        rng = np.random.default_rng(0)
        classes, clusters = np.arange(number, dtype=np.int32) % 10, np.arange(number, dtype=np.int32)
        matrix = rng.normal(size=(number, size)) + rng.normal(size=(10, size))[classes] / 5
        for method in METHODS:
            fit = partial(fit_head, matrix, classes, clusters, method, 0)
            seconds_of_fits = [timed(fit, time.process_time)() for _ in range(min(options.repeats, 3))]
            rows.append([f"{method}, {number:,} x {size:,}", seconds_of_fits])
    table(["head", "s of a processor"], rows)


if __name__ == "__main__":
    main()
