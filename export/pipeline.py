"""Weights -> architecture -> ONNX -> parity -> model on disk, for the 48 and for a user's own."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import UsageError
from ..protocol import SIZE
from ..records import Model, digest_of
from .architectures import build
from .fetch import fetch
from .files import models_folder, sha256_of
from .models import check_name, save_model
from .parity import Parity, check_images, check_parity
from .photographs import photograph_crops
from .registry import Channels, checkpoint, checkpoints, normalization_name
from .torch_to_onnx import OPSET, Normalized, to_onnx
from .weights import load_strictly, read_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OWN = "own"
"""The category of a user's models, and the key rule for their files."""


def export_checkpoint(
    name: str,
    folder: Path | None = None,
    *,
    image_size: int = SIZE,
    images: NDArray[np.float32] | None = None,
    weights: Path | None = None,
    trust: bool = False,
) -> tuple[Model, Parity]:
    """Fetch one of the 48 if need be, and export it into `folder` (default: the models folder).

    `images`, (n, 3, image_size, image_size) float32 in [0, 1], are what torch and ONNX are compared on; by default the
    photographs of scikit-image. `weights` is the folder of downloads. Raises CheckpointError, ExportError, UnknownName.
    """
    known = checkpoint(name)
    files = [(path, part.rule) for path, part in zip(fetch(known, weights), known.parts, strict=True)]
    recipe = Recipe(known.name, known.category, "resnet50", known.source, files, known.mean, known.std, "raw")
    return _export(recipe, folder, image_size, images, trust)


def export_user_checkpoint(
    path: Path,
    name: str,
    architecture: str,
    mean: Channels,
    std: Channels,
    folder: Path | None = None,
    *,
    image_size: int = SIZE,
    images: NDArray[np.float32] | None = None,
    rule: str = OWN,
    trust: bool = False,
    weights: str | None = None,
) -> tuple[Model, Parity]:
    """Export a weights file of the user's as the model `name` into `folder` (default: the models folder).

    `architecture` is read by `architectures.build`; `mean` and `std` are per RGB channel, for images in [0, 1]; `rule`
    is a key rule of checkpoints.toml. `weights` says which are meant of a file that holds several: `ema`, `raw`, or the
    key that holds them; left out, they are the exponential moving average where there is one.

    Raises CheckpointError, ExportError, UnknownName, and UsageError for a name that is one of the 48 or cannot name a
    file.
    """
    if any(name == one.name for one in checkpoints()):
        raise UsageError(f"'{name}' is one of the 48 checkpoints; give your model another name")
    recipe = Recipe(check_name(name), OWN, architecture, f"file:{path.name}", [(path, rule)], mean, std, weights)
    return _export(recipe, folder, image_size, images, trust)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the two kinds of export have in common."""

    name: str
    category: str
    architecture: str
    source: str
    files: list[tuple[Path, str]]
    """Each with the name of its key rule."""
    mean: Channels
    std: Channels
    choice: str | None
    """Which of a file's weights: see `weights.apply_rule`."""


def _export(
    recipe: Recipe, folder: Path | None, image_size: int, images: NDArray[np.float32] | None, trust: bool
) -> tuple[Model, Parity]:
    images = photograph_crops(image_size) if images is None else check_images(images, image_size)
    network = build(recipe.architecture)
    weights = read_weights(recipe.files, trust, recipe.choice, network.state_dict().keys())
    load_strictly(network, weights, " + ".join(str(path) for path, _ in recipe.files))
    normalized = Normalized(network, recipe.mean, recipe.std).eval()
    content, classes = to_onnx(normalized, image_size)
    parity = check_parity(normalized, content, images, recipe.name)
    digests = [sha256_of(path) for path, _ in recipe.files]
    model = Model(
        name=recipe.name,
        category=recipe.category,
        architecture=recipe.architecture,
        weights_sha256=digests[0] if len(digests) == 1 else digest_of(*digests),
        source=recipe.source,
        normalization=normalization_name(recipe.mean, recipe.std),
        path=(folder or models_folder()) / f"{recipe.name}.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        image_size=image_size,
        classes=classes,
    )
    made = {"opset": OPSET, "torch": torch.__version__, "dropped": weights.dropped, "parity": asdict(parity)}
    made["weights"] = {"taken": weights.taken, "left": weights.left, "ema": weights.averaged}
    save_model(model, content, made)
    return model, parity
