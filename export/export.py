"""The one way from a network to a model on disk, whatever the network comes as.

`bandlens export`, `bandlens.export_model`, `look` and `assert_no_worse` call `export` with the options that their users
gave. It finds out what the source is, and calls the step that loads and converts it (`pipeline`, `assembly`).
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
"""The beginning of a word that stands for a pretrained model of timm."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a network is exported. Whatever a source knows itself is None."""

    folder: Path
    """The folder of the models."""
    name: str | None = None
    """The name of the model; None for checkpoints and models of timm, which have names."""
    architecture: str | None = None
    """A torchvision or timm model, or `module:callable('text', number=1)`, that a file of weights belongs to."""
    mean: Sequence[float] | float | None = None
    """The mean of each RGB channel of images in [0, 1], which the network expects to be subtracted, or one for all."""
    std: Sequence[float] | float | None = None
    """The standard deviation by which it expects them to be divided, likewise."""
    image_size: int | None = None
    """Width and height of the images, pixels; by default 224, or what an ONNX file or a folder says."""
    head: HeadRequest | None = None
    """The head of classes that a network of features gets."""
    multilabel: bool = False
    """Whether each output decides a label by itself."""
    outputs: Literal["logits"] | None = None
    """`logits` where the outputs are logits though they look like features or probabilities."""
    class_names: Sequence[str] | None = None
    """The names of the classes in the order of the logits; by default those beside the weights."""
    reading: Reading = OWN_WEIGHTS
    """How a file of weights is read."""

    @property
    def normalization(self) -> Normalization | None:
        """Mean and standard deviation of each channel; None without either of them. UsageError for other numbers."""
        if self.mean is None or self.std is None:
            return None
        return channels_of("mean", self.mean), channels_of("std", self.std)

    @property
    def request(self) -> Request:
        """The use of the outputs."""
        from .onnx.outputs import Outputs

        return self.head or Outputs(self.multilabel, self.outputs is not None, self.class_names)


def export(source: str | PathLike[str] | nn.Module, options: ExportOptions) -> Model:
    """Make the fp32 ONNX model of a network; it must compute what the network does on photographs, or is refused.

    Args:
        source: a network in memory, which stays as it is; a file of weights of an architecture; a finished ONNX file;
            a folder that transformers saved an image classifier in; one of the 48 checkpoints by name; or a pretrained
            model of timm, `timm:NAME`.
        options: what the source does not say itself.

    Raises CheckpointError, ExportError, UnknownName, and UsageError where options are missing or fit no such source.
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
    # A checkpoint needs no name and a folder does, so that a folder beside it hides no checkpoint.
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
    """Whether a network in memory has timm's configuration, which says how its images are made."""
    return "mean" in (getattr(network, "pretrained_cfg", None) or {})


def _check_file(file: Path, architecture: str | None, reading: Reading) -> None:
    """UsageError for a file that is not there, or with too much or too little beside it, before torch is loaded."""
    if not file.exists():
        raise UsageError(f"no file at {file}; check the path")
    if file.suffix != ".onnx" and architecture is None and not file.is_dir():
        raise UsageError(f"{file}: give weights with their --architecture and --normalization")
    if file.suffix == ".onnx" and (architecture, reading) != (None, OWN_WEIGHTS):
        raise UsageError(f"{file} is the whole network; leave out weights, --architecture and what is about them")


def channels_of(name: str, numbers: Sequence[float] | float) -> Channels:
    """A number for each RGB channel, of one for all or of three; UsageError for any others, which `name` names."""
    try:
        channels = [float(numbers)] if isinstance(numbers, (int, float)) else list(map(float, numbers))
    except (TypeError, ValueError):  # words, or tables of numbers
        channels = []
    in_range = all(0 <= number <= 1 for number in channels) and (name == "mean" or 0 not in channels)  # nan is not
    if len(channels) not in (1, 3) or not in_range:
        raise UsageError(
            f"{name} must be three numbers, one a channel, or one number for all, of images in [0, 1], and std above "
            f"0, not {numbers}; divide those of images to 255, as in 123.68/255"
        )
    red, green, blue = channels * (3 // len(channels))
    return red, green, blue
