"""Weights -> architecture -> ONNX -> parity -> model on disk: the 48, timm's, a user's own, and a network in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ExportError, UsageError
from ..protocol import SIZE
from ..records import Crop, Model, digest_of
from ..untrusted import first_line
from .class_names import find_class_names
from .files import models_folder, sha256_of, weights_folder
from .models import FINISHED, MOST_CLASSES, check_name, save_model
from .normalization import NORMALIZATIONS, Normalization, normalization_name
from .onnx.finished import take_onnx
from .onnx.from_torch import OPSET, Normalized, to_onnx
from .onnx.parity import Parity, check_images, check_parity
from .photographs import photograph_crops
from .weights.architectures import build
from .weights.classifiers import image_size_of, labels_of, load_classifier, read_preprocessing
from .weights.fetch import fetch, fetch_files
from .weights.pretrained import load_pretrained, pretrained
from .weights.read import Weights, count_classes_of_head, load_strictly, read_weights
from .weights.registry import OWN, OWN_WEIGHTS, Reading, checkpoint, checkpoints

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn


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
    published = checkpoint(name)
    paths = fetch(published, weights)
    network = build("resnet50")
    files = [(path, part.rule) for path, part in zip(paths, published.parts, strict=True)]
    content = read_weights(files, trust, "raw", network.state_dict().keys())
    load_strictly(network, content, " + ".join(map(str, paths)))
    facts = ModelFacts(
        published.name,
        published.category,
        "resnet50",
        published.source,
        _sha256(paths),
        NORMALIZATIONS[published.normalization],
        image_size,
    )
    return _export(facts, network, _describe(content), folder, images)


def export_user_checkpoint(
    path: Path,
    name: str,
    architecture: str,
    normalization: Normalization,
    folder: Path | None = None,
    *,
    image_size: int = SIZE,
    images: NDArray[np.float32] | None = None,
    reading: Reading = OWN_WEIGHTS,
) -> tuple[Model, Parity]:
    """Export a weights file of the user's as the model `name` into `folder` (default: the models folder).

    `architecture` is read by `architectures.build`, and a named one gets as many classes as the weights have.

    Raises CheckpointError, ExportError, UnknownName, and UsageError for a name that is one of the 48 or cannot name a
    file.
    """
    _check_user_name(name)
    network = build(architecture)
    content = read_weights([(path, reading.rule)], reading.trust, reading.weights, network.state_dict().keys())
    classes = count_classes_of_head(network.state_dict(), content.tensors)
    if classes is not None and 1 <= classes <= MOST_CLASSES:
        network = build(architecture, classes)
    load_strictly(network, content, str(path))
    source = f"file:{path.name}"
    facts = ModelFacts(name, OWN, architecture, source, sha256_of(path), normalization, image_size, notes=content.notes)
    return _export(facts, network, _describe(content), folder, images)


def export_pretrained(
    name: str,
    folder: Path | None = None,
    *,
    images: NDArray[np.float32] | None = None,
    weights: Path | None = None,
) -> tuple[Model, Parity]:
    """Fetch a pretrained model of timm from the Hugging Face hub if need be, and export it by its name there.

    Normalization, image size and crop are the model's own. Raises CheckpointError, ExportError, UnknownName.
    """
    published = pretrained(name)
    (file,) = fetch_files([(published.source, (weights or weights_folder()) / f"{published.name}.safetensors")])
    network = load_pretrained(published.name, file)
    facts = ModelFacts(
        published.name,
        "timm",
        f"timm:{published.name}",
        str(published.source),
        sha256_of(file),
        published.normalization,
        published.crop.size,
        published.crop,
        notes={} if published.class_names is None else {"class_names": published.class_names},
    )
    return _export(facts, network, {}, folder, images)


def export_classifier(
    source: Path,
    name: str,
    normalization: Normalization | None,
    folder: Path | None = None,
    *,
    image_size: int | None = None,
) -> tuple[Model, Parity]:
    """Export an image classifier of a folder that transformers saved as the model `name`.

    Without a `normalization`, it is the folder's own, and so are image size and crop. Raises CheckpointError,
    ExportError, and UsageError where transformers is not installed, or the folder does not say how images are made.
    """
    _check_user_name(name)
    network, files, unused = load_classifier(source)
    crop = None
    if normalization is None:
        normalization, crop = read_preprocessing(source)
        if image_size not in (None, crop.size):
            raise UsageError(f"{source} takes images of {crop.size} pixels; leave out --image-size")
    facts = ModelFacts(
        name,
        OWN,
        _architecture_of(network),
        f"folder:{source.resolve().name}",
        _sha256(files),
        normalization,
        crop.size if crop else image_size or image_size_of(network.config),
        crop,
        notes={"id2label": labels_of(network.config)},
    )
    return _export(facts, network, {"dropped": {"no part of the network": unused} if unused else {}}, folder, None)


def import_onnx(
    path: Path,
    name: str,
    normalization: Normalization,
    folder: Path | None = None,
    *,
    image_size: int | None = None,
) -> tuple[Model, Parity]:
    """Take a finished ONNX file as the model `name`; see `finished.take_onnx`.

    `normalization` is that of its images, or `none` where the graph normalizes them itself.
    """
    _check_user_name(name)
    taken = take_onnx(path, normalization, image_size)
    facts = ModelFacts(
        *(name, OWN, FINISHED, f"file:{path.name}", taken.sha256, normalization, taken.image_size),
        precision=taken.precision,
        notes=taken.metadata,
    )
    return _save(facts, taken.content, taken.classes, taken.parity, {}, folder)


def export_network(
    network: nn.Module,
    name: str,
    normalization: Normalization,
    folder: Path | None = None,
    *,
    image_size: int = SIZE,
    images: NDArray[np.float32] | None = None,
) -> tuple[Model, Parity]:
    """Export a network in memory as the model `name`, as `export_user_checkpoint` does a file.

    A copy on the CPU and in evaluation mode is exported; the network stays as it is, and where it is.
    Raises ExportError, and UsageError for a name that is one of the 48 or cannot name a file.
    """
    _check_user_name(name)
    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"{name} is to be a torch.nn.Module, not a {type(network).__name__}")
    try:
        copy = deepcopy(network).cpu().eval()
        sha256 = sha256_of_tensors(copy)
    # A stranger's module may refuse in any way.
    except Exception as error:
        raise ExportError(
            f"the network for {name} cannot be copied: {first_line(error)}; save its weights, and export that file"
        ) from error
    facts = ModelFacts(name, OWN, _architecture_of(copy), "memory", sha256, normalization, image_size)
    return _export(facts, copy, {}, folder, images)


def _architecture_of(network: nn.Module) -> str:
    # A class of networks has them in any size, and what they compute is counted once for each architecture.
    parameters = sum(weight.numel() for weight in network.parameters())
    return f"{type(network).__qualname__} with {parameters:,} parameters"


def sha256_of_tensors(network: nn.Module) -> str:
    """The sha256 of the names, types, shapes and values of the tensors that the network would save."""
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        if isinstance(tensor, torch.Tensor):  # a module may save anything beside them
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model that are known before it is exported."""

    name: str
    category: str
    architecture: str
    source: str
    weights_sha256: str
    normalization: Normalization
    image_size: int
    crop: Crop | None = None
    precision: str = "fp32"
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Values beside the weights that may name the classes: see `class_names.find_class_names`."""


def _check_user_name(name: str) -> None:
    if any(name == published.name for published in checkpoints()):
        raise UsageError(f"'{name}' is one of the 48 checkpoints; give your model another name")
    check_name(name)


def _sha256(paths: list[Path]) -> str:
    digests = [sha256_of(path) for path in paths]
    return digests[0] if len(digests) == 1 else digest_of(*digests)


def _describe(weights: Weights) -> dict[str, Any]:
    """The part of a model's description that says which of the file's weights were taken."""
    names = {"taken": weights.container, "left": weights.alternatives, "ema": weights.averaged}
    return {"dropped": weights.dropped, "weights": names}


def _export(
    facts: ModelFacts,
    network: nn.Module,
    description: Mapping[str, Any],
    folder: Path | None,
    images: NDArray[np.float32] | None,
) -> tuple[Model, Parity]:
    size = facts.image_size
    images = photograph_crops(size) if images is None else check_images(images, size)
    normalized = Normalized(network, *facts.normalization).eval()
    content, classes = to_onnx(normalized, size)
    parity = check_parity(normalized, content, images, facts.name)
    made = {"opset": OPSET, "torch": torch.__version__, **description}
    return _save(facts, content, classes, parity, made, folder)


def _save(
    facts: ModelFacts, content: bytes, classes: int, parity: Parity, made: Mapping[str, Any], folder: Path | None
) -> tuple[Model, Parity]:
    model = Model(
        name=facts.name,
        category=facts.category,
        architecture=facts.architecture,
        weights_sha256=facts.weights_sha256,
        source=facts.source,
        normalization=normalization_name(facts.normalization),
        path=(folder or models_folder()) / f"{facts.name}.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        image_size=facts.image_size,
        classes=classes,
        crop=facts.crop,
        precision=facts.precision,
    )
    names = find_class_names(facts.notes, classes)
    save_model(model, content, {**made, **({"class_names": names} if names else {}), "parity": asdict(parity)})
    return model, parity
