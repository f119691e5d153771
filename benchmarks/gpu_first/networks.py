"""The networks of the stages: a ResNet-50 of random weights, in torch, and exported."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandlens.core.protocol import CLASSES
from bandlens.core.records import Cell, Condition, Model, Variant
from bandlens.engine.backends.base import Session, open_session, variant_of

from .bench import Bench, LeftOut


def cells_of(
    bench: Bench, sessions: Mapping[Variant, Session], conditions: Sequence[Condition]
) -> list[tuple[Cell, int]]:
    return [(Cell(variant, bench.images.info, condition, 0), 0) for condition in conditions for variant in sessions]


def open_networks(bench: Bench, stack: ExitStack, count: int, precision: str | None = None) -> dict[Variant, Session]:
    """So many sessions in torch, each with a bias of its own."""
    from bandlens.engine.backends import torch

    network = resnet50(bench.sizes.width, bench.batch(np, min(bench.sizes.compared, bench.sizes.images)).pixels)
    sessions: dict[Variant, Session] = {}
    for number in range(count):
        variant = variant_named(bench, f"network-{number}", precision or bench.sizes.precisions[0])

        def loaded(variant: Variant, device: str, number: int = number) -> Any:
            clone = copy.deepcopy(network)
            clone.classify.bias.data += number / 1000
            return clone.in_precision(variant.precision).to(device)

        sessions[variant] = stack.enter_context(torch.open_session(variant, bench.sizes.batch, 1, loaded))
    return sessions


def variant_named(bench: Bench, name: str, precision: str) -> Variant:
    model = Model(name, "own", "resnet50", name, "random", "none", Path(name), name, bench.sizes.side, CLASSES)
    return Variant(model, "torch-cuda", precision, Path(name), name)


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


NAME = "resnet50"
"""The name of the exported model."""


def export_model(bench: Bench) -> Iterator[tuple[str, float]]:
    """Export the network, with files of every precision of the plans."""
    bench.require("tensorrt")
    from bandlens.export.model_files import NORMALIZATIONS
    from bandlens.export.onnx.precisions import Calibration, make_onnx_file
    from bandlens.export.pipeline import export_network

    start, sizes = time.perf_counter(), bench.sizes
    pixels = bench.images.take(np.arange(min(100, sizes.images)))
    folder = bench.folder / "models"
    folder.mkdir(exist_ok=True)
    # The network normalizes its images itself.
    network = resnet50(sizes.width, pixels[: sizes.compared])
    model, _ = export_network(network, NAME, NORMALIZATIONS["none"], folder, image_size=sizes.side)
    for precision in {*sizes.precisions} - {"fp32"}:
        images = pixels.astype(np.float32) / np.float32(255)
        make_onnx_file(model, precision, Calibration("photographs", "", images) if precision == "int8" else None)
    yield "seconds", time.perf_counter() - start


def exported_model(bench: Bench) -> Model:
    """The model that the stage `export` made; LeftOut where it has not."""
    from bandlens.export.model_files import load_model

    if not (bench.folder / "models" / f"{NAME}.json").is_file():
        raise LeftOut("the stage `export` has not ended")
    return load_model(bench.folder / "models", NAME)


def open_files(bench: Bench, stack: ExitStack) -> dict[Variant, Session]:
    """The exported file, opened by TensorRT as all networks."""
    variant = variant_of(exported_model(bench), "tensorrt", bench.sizes.precisions[0])
    variants = [replace(variant, model=replace(variant.model, name=f"{NAME}-{k}")) for k in range(bench.sizes.networks)]
    return {variant: stack.enter_context(open_session(variant, bench.sizes.batch, 0)) for variant in variants}
