"""Checkpoints, and what is exported of them; and what this machine can run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import UsageError
from ...core.progress import Progress, silent
from ...core.protocol import SIZE
from ...core.records import MULTILABEL
from ...core.threads import processors
from ...export.weights.registry import OWN_WEIGHTS, Reading
from ..export import Backbone, MultiLabel
from .files import File, path_of

if TYPE_CHECKING:
    from torch import nn

    from ...core.records import Model, Variant
    from ...engine.backends.layers import Layer, LayerDifference
    from ...engine.device.roofline import Roofline
    from ...export.normalization import Channels
    from ...export.weights.fetch import FileState
    from ...export.weights.registry import Checkpoint
    from ..sensitivity import Sensitivity


def doctor(engine: str | None = None) -> list[tuple[str, Any]]:
    """Subjects and findings: what this machine can run. Of one engine, EngineError where it is not ready."""
    from ..machine import inspect_machine, require_engine

    return inspect_machine() if engine is None else [require_engine(engine)]


def engine_names() -> list[str]:
    """Names of all engines, `auto` among them."""
    from ...engine.backends.base import ENGINES

    return ["auto", *ENGINES]


def list_checkpoints(category: str | None = None) -> Sequence[Checkpoint]:
    """The 48 checkpoints, or those of a category."""
    from ...export.weights.registry import by_category, checkpoints

    return checkpoints() if category is None else by_category(category)


def describe_checkpoint(name: str) -> list[dict[str, Any]]:
    """A row for each file of a checkpoint: where it is published and stored, and how its keys are read."""
    from ...export.weights.fetch import local_files, verify
    from ...export.weights.registry import checkpoint, key_rule

    known = checkpoint(name)
    stored = {row.file: row for row in verify(known)}
    return [
        {
            "name": known.name,
            "category": known.category,
            "published_top1": known.published_top1,
            "normalization": known.normalization,
            "licence": known.licence,
            "source": str(part.source),
            "rule": part.rule,
            "containers": ", ".join(key_rule(part.rule).containers),
            "drops": "; ".join(why for _, why in key_rule(part.rule).drop),
            "file": str(path),
            "sha256": stored[path].sha256,
            "status": stored[path].status,
        }
        for part, path in local_files(known)
    ]


def fetch_weights(checkpoint: Checkpoint) -> list[Path]:
    """Download the weights of a checkpoint, going on where an earlier download stopped, and verify them."""
    from ...export.weights.fetch import fetch

    return fetch(checkpoint)


def verify_weights(checkpoint: Checkpoint) -> list[FileState]:
    """Compare the stored weights with the lock file; nothing is downloaded."""
    from ...export.weights.fetch import verify

    return verify(checkpoint)


def export(
    source: File | nn.Module | Backbone | MultiLabel,
    name: str | None = None,
    *,
    architecture: str | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    image_size: int | None = None,
    reading: Reading = OWN_WEIGHTS,
    out: File | None = None,
) -> Model:
    """Make the fp32 ONNX model of a network; it must compute what the network does on photographs, or is refused.

    Args:
        source: a network in memory, which stays as it is; a file of weights of an `architecture`; a finished ONNX file;
            a folder that transformers saved an image classifier in; one of the 48 checkpoints by name; or a pretrained
            model of timm, `timm:NAME`. A `Backbone` gives a network of features a head of classes, and
            `MultiLabel` judges each output of a network as a label by itself.
        name: what studies call the model; not for checkpoints and models of timm, which have names.
        architecture: a torchvision or timm model, or `module:callable('text', number=1)`.
        mean: of each RGB channel of images in [0, 1], which the network expects to be subtracted, three numbers or one
            for all; 0 where it does that itself. Checkpoints, models of timm and most folders know theirs.
        std: by which it expects them to be divided, likewise; 1 where it does that itself.
        image_size: width and height of the images, pixels; 224 by default, or what an ONNX file says.
        reading: how a file of weights is read: its key rule, which of several weights are meant, and whether it may
            run its code.
        out: the folder of the models; by default $BANDLENS_HOME/models.

    Raises CheckpointError, ExportError, UnknownName, UsageError.
    """
    from ...export import pipeline

    folder, size = path_of(out), image_size or SIZE
    head = source.request() if isinstance(source, Backbone) else None
    request: pipeline.Request | None = MULTILABEL if isinstance(source, MultiLabel) else head
    if isinstance(source, (Backbone, MultiLabel)):
        source = source.source
    # A checkpoint needs no name and a folder does, so that a folder beside it hides no checkpoint.
    if isinstance(source, (str, PathLike)) and name is not None and Path(source).is_dir():
        if architecture is not None or (mean is None) != (std is None):
            raise UsageError(
                f"{source} is a folder, whose config.json names the architecture; leave that out, and give mean and "
                "std both or neither"
            )
        stated = None if mean is None or std is None else (_channels("mean", mean), _channels("std", std))
        return pipeline.export_classifier(Path(source), name, stated, folder, image_size=image_size, request=request)[0]
    if isinstance(source, str) and architecture is None and not Path(source).is_file():
        if (name, mean, std) != (None, None, None):
            raise UsageError(f"{source} is no file, and a checkpoint has its own name, mean and std; leave them out")
        if request is not None and (head is None or not source.startswith("timm:")):
            raise UsageError(f"{source} is no file of weights, and a published checkpoint has classes of its own")
        if not source.startswith("timm:"):
            return pipeline.export_checkpoint(source, folder, image_size=size, trust=reading.trust)[0]
        if image_size is not None:
            raise UsageError(f"{source} takes images of its own size; leave out image_size")
        return pipeline.export_pretrained(source.removeprefix("timm:"), folder, request=head)[0]
    if name is None or mean is None or std is None:
        raise UsageError("give the model a name, and the mean and std of each channel that the network is used to")
    channels = _channels("mean", mean), _channels("std", std)
    if not isinstance(source, (str, PathLike)):
        return pipeline.export_network(source, name, channels, folder, image_size=size, request=request)[0]
    file = Path(source)
    if architecture is None:
        return pipeline.import_onnx(file, name, channels, folder, image_size=image_size, request=request)[0]
    return pipeline.export_user_checkpoint(
        file,
        name,
        architecture,
        channels,
        folder,
        image_size=size,
        reading=reading,
        request=request,
    )[0]


def _channels(name: str, numbers: Sequence[float] | float) -> Channels:
    try:
        channels = (float(numbers),) * 3 if isinstance(numbers, (int, float)) else tuple(map(float, numbers))
    except (TypeError, ValueError):  # words, or tables of numbers
        channels = ()
    if len(channels) != 3 or not all(map(math.isfinite, channels)) or (name == "std" and min(channels) <= 0):
        raise UsageError(
            f"{name} must be three numbers, one a channel, or one number for all, and std above 0; not {numbers}"
        )
    red, green, blue = channels
    return red, green, blue


def describe_model(name: str, out: File | None = None) -> dict[str, Any]:
    """The description of an exported model, as it lies beside its file."""
    from ...export.models import describe_model

    return describe_model(_models_folder(out), name)


def sensitivity(
    checkpoint: str,
    image_set: File,
    models: File | None = None,
    *,
    engine: str = "torch",
    progress: Progress = silent,
) -> Sensitivity:
    """Measure along which frequencies the loss of a model rises: its Fourier sensitivity by octave and ring.

    Args:
        checkpoint: the name of an exported model.
        image_set: the folder of a packed set that it takes.
        models: the models folder.
        engine: `torch`, or `torch-cuda` on a GPU.
        progress: shows how far it is.
    """
    from ...export.models import load_model
    from ...probes.images.image_set import open_image_set
    from ..sensitivity import measure_sensitivity
    from ..study.class_names import match_labels

    model = load_model(_models_folder(models), checkpoint)
    images = match_labels(open_image_set(Path(image_set)), [model])
    return measure_sensitivity(model, images, engine, progress)


@dataclass(frozen=True, slots=True)
class Profile:
    """The layers of a model on an engine, the slowest first, and the limits of the device."""

    variant: Variant
    batch: int
    layers: list[Layer]
    roofline: Roofline

    @property
    def seconds(self) -> float:
        """Seconds of all layers for a batch."""
        return sum(layer.seconds for layer in self.layers)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer: milliseconds and gigabytes of a batch, and its share of the roofline."""
        return [
            {
                "layer": layer.name,
                "operator": layer.operator,
                "ms": 1000 * layer.seconds,
                "share": layer.seconds / self.seconds if self.seconds else None,
                "gb": layer.bytes / 1e9,
                "gflop": layer.operations / 1e9,
                "bound": self.roofline.bound(layer.bytes, layer.operations),
                "of_roofline": self.roofline.seconds(layer.bytes, layer.operations) / layer.seconds
                if layer.seconds
                else None,
            }
            for layer in self.layers
        ]


def profile(
    name: str,
    engine: str = "auto",
    precision: str = "fp32",
    *,
    batch: int | None = None,
    threads: int | None = None,
    models: File | None = None,
) -> Profile:
    """Time the layers of an exported model as an engine runs them, and measure what the device can do.

    The threads of a CPU share each layer here; in a run they share a batch, which takes less time.

    Args:
        name: the model.
        engine: `auto`, or an engine that `doctor` lists.
        precision: one that the engine runs.
        batch: the images of a batch, which are random; by default a study's, the tuned one where there is one.
        threads: of the CPU; by default as many as this process may use.
        models: the folder of the models; by default that of `export`.

    Raises EngineError where the engine cannot run the model, or times no layers.
    """
    import numpy as np

    from ...engine.backends.base import arrays_of, profile_layers
    from ...engine.device.roofline import measure_roofline
    from ...engine.tuning import usual_batch

    variant, threads = _variant(name, engine, precision, models), threads or processors()
    count = batch or usual_batch(variant.engine, precision, variant.model.path.parent, threads)
    size = variant.model.image_size
    images = np.random.default_rng(0).random((count, 3, size, size), np.float32)
    layers = sorted(profile_layers(variant, images, threads), key=lambda layer: -layer.seconds)
    return Profile(variant, count, layers, measure_roofline(arrays_of(variant.engine), precision, threads))


def compare_layers(
    name: str,
    reference: str,
    engine: str = "auto",
    precision: str = "fp32",
    *,
    threads: int | None = None,
    models: File | None = None,
) -> list[LayerDifference]:
    """Compare the values of a model's nodes in two engines on photographs, in the order of the ONNX file.

    Every value is an output of the network here, so that neither engine fuses it away: what differs only where nodes
    are fused does not show.

    Args:
        name: the model.
        reference: ENGINE or ENGINE:PRECISION, whose values are trusted; fp32 by default.
        engine: the engine in question: `auto`, or one that `doctor` lists.
        precision: its precision.
        threads: of the CPU; by default as many as this process may use.
        models: the folder of the models; by default that of `export`.

    Raises EngineError where an engine cannot run the model, or shows no values of its nodes.
    """
    from ...engine.backends.base import content_of, layer_values
    from ...engine.backends.layers import LARGEST_DIFFERENCE, compare_layers
    from ...export.photographs import photograph_crops

    trusted, _, trusted_precision = reference.partition(":")
    variants = [
        _variant(name, trusted, trusted_precision or "fp32", models),
        _variant(name, engine, precision, models),
    ]
    images = photograph_crops(variants[0].model.image_size)[:COMPARED]
    values_a, values_b = (layer_values(variant, images, threads or processors()) for variant in variants)
    close = max(LARGEST_DIFFERENCE[variant.precision] for variant in variants)
    return compare_layers(content_of(variants[0]), values_a, values_b, close)


COMPARED = 2
"""Photographs on which layers are compared: a ResNet-50's values take 100 MB for each of them."""


def _variant(name: str, engine: str, precision: str, models: File | None) -> Variant:
    from ...engine.backends.base import variant_of
    from ...engine.device.devices import choose_engine
    from ...export.models import load_model

    if engine == "auto":
        engine = choose_engine().engine
    return variant_of(load_model(_models_folder(models), name), engine, precision)


def name_classes(model: Model, names: File | Sequence[str]) -> None:
    """Keep the names of an exported model's classes, by which the labels of image sets are matched.

    Args:
        model: the model.
        names: a name for each class in the order of the logits, or a text file of them, one a line.

    Raises UsageError where the file cannot be read, has another number of names, or the folder cannot be written.
    """
    from ...export.class_names import read_class_names
    from ...export.models import name_classes

    name_classes(model, read_class_names(Path(names)) if isinstance(names, (str, PathLike)) else names)


def _models_folder(out: File | None) -> Path:
    from ...export.files import models_folder

    return path_of(out) or models_folder()
