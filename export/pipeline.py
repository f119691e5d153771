"""Load, convert and save models of every kind of source.

The steps are: load the weights into the architecture, convert the network to ONNX, compare the outputs, and write the
model. There is one function for each kind of source: the 48 checkpoints, pretrained timm models, weights files of
users, folders saved by transformers, and networks in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import ExportError, UsageError
from ..core.files import sha256_of
from ..core.protocol import SIZE
from ..core.records import Model, digest_of
from ..core.untrusted import first_line
from .assembly import PLAIN, HeadRequest, ModelFacts, Request, check_user_name, save_conversion
from .heads.recipes import TrainedHead
from .model_files import GREY, MOST_CLASSES, MOST_PIXELS, NORMALIZATIONS, Normalization, check_name
from .onnx.from_torch import OPSET, Normalized, Pooled, takes_grey, to_onnx
from .onnx.outputs import GIVE_HEAD, Outputs, check_outputs
from .onnx.parity import Conversion, Parity, check_finite, check_parity, torch_outputs
from .reference_images import photograph_crops
from .weights.architectures import build, load_pretrained, pool_pretrained, preprocessing_of, pretrained
from .weights.fetch import fetch, fetch_files, weights_folder
from .weights.read import Weights, count_classes_of_head, load_strictly, read_weights
from .weights.study_checkpoints import OWN, OWN_WEIGHTS, Reading, checkpoint
from .weights.transformers_folder import image_size_of, labels_of, load_classifier, read_preprocessing

if TYPE_CHECKING:
    from torch import nn


def export_checkpoint(name: str, folder: Path, image_size: int, trust: bool) -> tuple[Model, Parity]:
    """Download one of the 48 checkpoints, unless it is cached, and export it.

    Args:
        name: Name of the checkpoint.
        folder: Folder of the models.
        image_size: Width and height of the images in pixels.
        trust: Load the file with pickle, which can execute code.

    Returns:
        The model, and the comparison of PyTorch and ONNX outputs.

    Raises:
        CheckpointError: The weights cannot be downloaded or loaded.
        ExportError: The network cannot be converted, or its outputs differ after conversion.
        UnknownName: There is no such checkpoint.
    """
    published = checkpoint(name)
    paths = fetch(published)
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
    return _export(facts, network, _describe(content), folder)


def export_user_checkpoint(
    path: Path,
    name: str,
    architecture: str,
    normalization: Normalization,
    folder: Path,
    *,
    image_size: int = SIZE,
    reading: Reading = OWN_WEIGHTS,
    request: Request = PLAIN,
) -> tuple[Model, Parity]:
    """Export a user's weights file.

    Args:
        path: The weights file.
        name: Name of the new model.
        architecture: Architecture to load the weights into; see `architectures.build`. A named architecture gets as
            many classes as the weights have.
        normalization: Mean and standard deviation with which images are normalized.
        folder: Folder of the models.
        image_size: Width and height of the images in pixels.
        reading: How to read the weights file.
        request: How to use the outputs. By default, they are logits of classes.

    Returns:
        The model, and the comparison of PyTorch and ONNX outputs.

    Raises:
        CheckpointError: The weights cannot be loaded into the architecture.
        ExportError: The network cannot be converted, or its outputs differ after conversion.
        UnknownName: There is no such architecture.
        UsageError: The name belongs to one of the 48 checkpoints, or is not a valid file name.
    """
    check_user_name(name)
    network = build(architecture)
    content = read_weights([(path, reading.rule)], reading.trust, reading.weights, network.state_dict().keys())
    classes = count_classes_of_head(network.state_dict(), content.tensors)
    if classes is not None and 1 <= classes <= MOST_CLASSES:
        network = build(architecture, classes)
    load_strictly(network, content, str(path))
    source = f"file:{path.name}"
    facts = ModelFacts(name, OWN, architecture, source, sha256_of(path), normalization, image_size, notes=content.notes)
    return _export(facts, network, _describe(content), folder, request)


def export_pretrained(name: str, folder: Path, request: HeadRequest | None) -> tuple[Model, Parity]:
    """Download a pretrained timm model from the Hugging Face Hub, unless it is cached, and export it.

    Normalization, image size and crop are those of the model. With a `request`, the result is a user's model named by
    `headed_name`. A trained head replaces the model's classifier, and the model's pooling is used unless the request
    specifies another one. A head of prompt embeddings is appended to the model's outputs.

    Args:
        name: Name of the model in timm.
        folder: Folder of the models.
        request: Head to append; None to export the model unchanged.

    Returns:
        The model, and the comparison of PyTorch and ONNX outputs.

    Raises:
        CheckpointError: The weights cannot be downloaded or loaded.
        ExportError: The network cannot be converted, or its outputs differ after conversion.
        UnknownName: timm has no pretrained model of this name.
    """
    published = pretrained(name, headed=request is not None)
    if request is not None:
        request.head.check_network(published.name, published.crop.size, published.crop)
    (file,) = fetch_files([(published.source, weights_folder() / f"{published.name}.safetensors")])
    network = load_pretrained(published.name, file)
    if request is not None:
        if isinstance(request.head, TrainedHead) or request.features.pool is not None:
            network = pool_pretrained(network, request.features.pool, published.name)
        request = replace(request, features=replace(request.features, pool=None))
    facts = ModelFacts(
        published.name if request is None else headed_name(published.name, request),
        "timm" if request is None else OWN,
        f"timm:{published.name}",
        str(published.source),
        sha256_of(file),
        published.normalization,
        published.crop.size,
        published.crop,
        notes={} if published.class_names is None or request else {"class_names": published.class_names},
    )
    return _export(facts, network, {}, folder, request or PLAIN)


def headed_name(name: str, request: HeadRequest) -> str:
    """Return the name of a pretrained model with a head.

    It consists of the model's name, a plus sign, and the name of the training set or of the file of embeddings.
    """
    source = Path(request.head.source)
    # Remove known suffixes only: image sets may be called photos.2024 and photos.2025.
    return check_name(f"{name}+{source.stem if source.suffix in ('.set', '.npy', '.safetensors') else source}")


def export_classifier(
    source: Path,
    name: str,
    normalization: Normalization | None,
    folder: Path,
    *,
    image_size: int | None = None,
    request: Request = PLAIN,
) -> tuple[Model, Parity]:
    """Export an image classifier from a folder that transformers saved, or a feature extractor if a head is requested.

    Args:
        source: The folder.
        name: Name of the new model.
        normalization: Mean and standard deviation. None to use normalization, image size and crop of the folder.
        folder: Folder of the models.
        image_size: Width and height of the images in pixels; None for the size in the folder.
        request: How to use the outputs.

    Returns:
        The model, and the comparison of PyTorch and ONNX outputs.

    Raises:
        CheckpointError: Weights are missing.
        ExportError: The network cannot be loaded or converted, or its outputs differ after conversion.
        UsageError: transformers is not installed, or the folder does not specify the preprocessing of images.
    """
    check_user_name(name)
    features = request.features if isinstance(request, HeadRequest) else None
    network, files, unused = load_classifier(source, features)
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
    description = {"dropped": {"no part of the network": unused} if unused else {}}
    return _export(facts, network, description, folder, request)


def export_network(
    network: nn.Module,
    name: str,
    normalization: Normalization | None,
    folder: Path,
    *,
    image_size: int | None = None,
    request: Request = PLAIN,
) -> tuple[Model, Parity]:
    """Export a network in memory.

    A copy of the network is moved to the CPU, set to evaluation mode and exported. The network itself is not modified.

    Args:
        network: The network.
        name: Name of the new model.
        normalization: Mean and standard deviation. None to use those of the network's timm configuration, and its image
            size and crop.
        folder: Folder of the models.
        image_size: Width and height of the images in pixels; None for the size in the timm configuration, else 224.
        request: How to use the outputs.

    Returns:
        The model, and the comparison of PyTorch and ONNX outputs.

    Raises:
        ExportError: The network cannot be copied or converted, or its outputs differ after conversion.
        UsageError: The name belongs to one of the 48 checkpoints, or is not a valid file name.
    """
    check_user_name(name)
    crop = None
    if normalization is None:
        normalization, crop = preprocessing_of(network.pretrained_cfg, name)  # type: ignore[arg-type]
        crop = crop if image_size in (None, crop.size) else None
    try:
        copy = deepcopy(network).cpu().eval()
        sha256 = sha256_of_tensors(copy)
    # Copying runs third-party code, which can raise anything.
    except Exception as error:
        raise ExportError(
            f"the network for {name} cannot be copied: {first_line(error)}; save its weights, and export that file"
        ) from error
    size = crop.size if crop else image_size or SIZE
    facts = ModelFacts(name, OWN, _architecture_of(copy), "memory", sha256, normalization, size, crop)
    return _export(facts, copy, {}, folder, request)


def _architecture_of(network: nn.Module) -> str:
    # One class can build networks of any size. Add the number of parameters to tell their architectures apart.
    parameters = sum(weight.numel() for weight in network.parameters())
    return f"{type(network).__qualname__} with {parameters:,} parameters"


def sha256_of_tensors(network: nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and values of all tensors in the state dict of a network."""
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        if isinstance(tensor, torch.Tensor):  # a state dict can contain other objects
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sha256(paths: list[Path]) -> str:
    digests = [sha256_of(path) for path in paths]
    return digests[0] if len(digests) == 1 else digest_of(*digests)


def _describe(weights: Weights) -> dict[str, Any]:
    """Return the entries of a model's description that state which weights of the file were loaded."""
    names = {"taken": weights.container, "left": weights.alternatives, "ema": weights.averaged}
    return {"dropped": weights.dropped, "weights": names}


def _export(
    facts: ModelFacts,
    network: nn.Module,
    description: Mapping[str, Any],
    folder: Path,
    request: Request = PLAIN,
) -> tuple[Model, Parity]:
    size, name = facts.image_size, facts.name
    if size > MOST_PIXELS:
        raise UsageError(f"{name} would take images of {size:,} pixels, and {MOST_PIXELS:,} are the most; choose fewer")
    features = request.features if isinstance(request, HeadRequest) else None
    if features is None and getattr(network, "num_classes", None) == 0:
        raise ExportError(f"{name} is a backbone without classes; {GIVE_HEAD}")
    if features is not None and features.output is not None:
        raise UsageError(f"`output` names a tensor of a finished ONNX file, and {name} is none; leave it out")
    if isinstance(request, HeadRequest):
        request.head.check_network(name, size, facts.crop)
    images, grey = photograph_crops(size), takes_grey(network, size)
    pooled = network if features is None else Pooled(network, features.pool)
    normalized: nn.Module = Normalized(pooled, *facts.normalization, grey).eval()
    content, _ = to_onnx(normalized, size)
    outputs = torch_outputs(normalized, images)
    check_finite(outputs, f"{name} in torch", "logits" if features is None else "features")
    if isinstance(request, Outputs):
        check_outputs(outputs, content, name, request)
    check = partial(check_parity, images=images, name=name)
    provenance = {"opset": OPSET, "torch": torch.__version__, **description}
    return save_conversion(
        facts, Conversion(content, outputs, [GREY] if grey else [], check), provenance, folder, request
    )
