"""Export a model from any supported source.

`bandlens export`, `bandlens.export_model`, `look` and `assert_no_worse` call `export`. It determines the type of the
source and calls the function that loads and converts it (modules `pipeline` and `assembly`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.errors import UsageError
from ..core.extras import naming_extras
from ..core.protocol import SIZE
from ..core.records import Model
from .weights.study_checkpoints import OWN_WEIGHTS, Reading, checkpoints

if TYPE_CHECKING:
    from torch import nn

    from .assembly import HeadRequest, Request
    from .model_files import Channels, Normalization

TIMM = "timm:"
"""Prefix of a source that names a pretrained timm model."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export. Options that the source determines itself are None."""

    folder: Path
    """Folder of the models."""
    name: str | None = None
    """Name of the model; None for checkpoints and timm models, which have names."""
    architecture: str | None = None
    """Architecture to load a weights file into.

    A torchvision or timm model, or `module:callable('text', number=1)`.
    """
    mean: Sequence[float] | float | None = None
    """Mean of each RGB channel, or one value for all, for images in [0, 1]. The network expects it to be subtracted."""
    std: Sequence[float] | float | None = None
    """Standard deviation of each RGB channel, or one value for all. The network expects images to be divided by it."""
    image_size: int | None = None
    """Width and height of the images in pixels. Default: the value in the ONNX file or folder, else 224."""
    head: HeadRequest | None = None
    """Classification head to append to a feature extractor."""
    multilabel: bool = False
    """Whether each output predicts the presence of one label, independently of the others."""
    outputs: Literal["logits"] | None = None
    """`logits` to treat outputs as logits even if they look like features or probabilities."""
    class_names: Sequence[str] | None = None
    """Class names in the order of the logits. Default: the names stored with the weights."""
    reading: Reading = OWN_WEIGHTS
    """How to read a weights file."""

    @property
    def normalization(self) -> Normalization | None:
        """Mean and standard deviation of each channel, or None if either is missing.

        Raises:
            UsageError: The numbers are not valid.
        """
        if self.mean is None or self.std is None:
            return None
        return channels_of("mean", self.mean), channels_of("std", self.std)

    @property
    def request(self) -> Request:
        """How to use the outputs of the network."""
        from .onnx.outputs import Outputs

        return self.head or Outputs(self.multilabel, self.outputs is not None, self.class_names)


def export(source: str | PathLike[str] | nn.Module, options: ExportOptions) -> Model:
    """Export a network as an fp32 ONNX model.

    The ONNX model must reproduce the outputs of the network on sample photographs, otherwise the export fails.

    Args:
        source: A network in memory, which is not modified; a weights file, with an architecture in the options; an ONNX
            file; a folder in which transformers saved an image classifier; the name of one of the 48 checkpoints; or
            `timm:NAME` for a pretrained timm model.
        options: Options that the source does not determine itself.

    Returns:
        The exported model.

    Raises:
        CheckpointError: Weights cannot be downloaded or loaded.
        ExportError: The network cannot be converted, or its outputs differ after conversion.
        UnknownName: A checkpoint, timm model or architecture does not exist.
        UsageError: Options are missing or do not apply to the source.
    """
    name, architecture, image_size = options.name, options.architecture, options.image_size
    if isinstance(source, PathLike) or (isinstance(source, str) and architecture is not None):
        _check_file(Path(source), architecture, options.reading)
    normalization = options.normalization
    is_published = name is None and any(source == published.name for published in checkpoints())
    is_file = isinstance(source, (str, PathLike)) and Path(source).is_file() and not is_published
    from .assembly import PLAIN, import_onnx

    if not is_file or architecture is not None:
        with naming_extras("an export of anything but an ONNX file"):
            from . import pipeline
    folder, size, request = options.folder, image_size or SIZE, options.request
    # Only a folder needs a name. A folder that is called like a checkpoint therefore does not hide the checkpoint.
    if isinstance(source, (str, PathLike)) and name is not None and Path(source).is_dir():
        if architecture is not None or (options.mean is None) != (options.std is None):
            raise UsageError(
                f"{source} is a folder, whose config.json names the architecture; leave that out, and give mean and "
                "std both or neither"
            )
        return pipeline.export_classifier(
            Path(source), name, normalization, folder, image_size=image_size, request=request
        )[0]
    if isinstance(source, str) and architecture is None and not is_file:
        if (name, options.mean, options.std) != (None, None, None):
            raise UsageError(f"{source} is no file, and a checkpoint has its own name, mean and std; leave them out")
        if request != PLAIN and (options.head is None or not source.startswith(TIMM)):
            raise UsageError(f"{source} is no file of weights, and a published checkpoint has classes of its own")
        if not source.startswith(TIMM):
            return pipeline.export_checkpoint(source, folder, image_size=size, trust=options.reading.trust)[0]
        if image_size is not None:
            raise UsageError(f"{source} takes images of its own size; leave out image_size")
        return pipeline.export_pretrained(source.removeprefix(TIMM), folder, request=options.head)[0]
    knows_images = (options.mean, options.std) == (None, None) and is_of_timm(source)
    if name is not None and (normalization or knows_images) and not isinstance(source, (str, PathLike)):
        return pipeline.export_network(source, name, normalization, folder, image_size=image_size, request=request)[0]
    if name is None or normalization is None or not isinstance(source, (str, PathLike)):
        raise UsageError(
            f"give {name or 'the model a name, and'} the mean and std of each channel that the network is used to, on "
            "the command line --normalization imagenet, none, or MEAN:STD"
        )
    file = Path(source)
    if architecture is None:
        return import_onnx(file, name, normalization, folder, image_size=image_size, request=request)[0]
    return pipeline.export_user_checkpoint(
        file, name, architecture, normalization, folder, image_size=size, reading=options.reading, request=request
    )[0]


def is_of_timm(network: Any) -> bool:
    """Return whether a network in memory has a timm configuration, which specifies its preprocessing."""
    return "mean" in (getattr(network, "pretrained_cfg", None) or {})


def _check_file(file: Path, architecture: str | None, reading: Reading) -> None:
    """Check that a file exists and that the options fit its type, before torch is imported.

    Raises:
        UsageError: The check failed.
    """
    if not file.exists():
        raise UsageError(f"no file at {file}; check the path")
    if file.suffix != ".onnx" and architecture is None and not file.is_dir():
        raise UsageError(f"{file}: give weights with their --architecture and --normalization")
    if file.suffix == ".onnx" and (architecture, reading) != (None, OWN_WEIGHTS):
        raise UsageError(f"{file} is the whole network; leave out weights, --architecture and what is about them")


def channels_of(name: str, numbers: Sequence[float] | float) -> Channels:
    """Return one number per RGB channel.

    Args:
        name: `mean` or `std`, for error messages.
        numbers: One number for all channels, or three numbers, in [0, 1]. A standard deviation must be positive.

    Raises:
        UsageError: The numbers are not valid.
    """
    try:
        channels = [float(numbers)] if isinstance(numbers, (int, float)) else list(map(float, numbers))
    except (TypeError, ValueError):  # text, or nested sequences
        channels = []
    in_range = all(0 <= number <= 1 for number in channels) and (name == "mean" or 0 not in channels)  # false for NaN
    if len(channels) not in (1, 3) or not in_range:
        raise UsageError(
            f"{name} must be three numbers, one a channel, or one number for all, of images in [0, 1], and std above "
            f"0, not {numbers}; divide those of images to 255, as in 123.68/255"
        )
    red, green, blue = channels * (3 // len(channels))
    return red, green, blue
