"""Checkpoints, and what is exported of them; and what this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.errors import CheckpointError, UsageError
from ...core.extras import naming_extras
from ...core.jobs import Progress, silent
from ...core.protocol import SIZE
from ...export.weights.study_checkpoints import OWN_WEIGHTS, Reading, checkpoints, select
from .export import Backbone, MultiLabel, attempt
from .parameters import File, Layout, PackedSet, listed, path_of

if TYPE_CHECKING:
    from torch import nn

    from ...core.records import Model
    from ...export.model_files import Channels
    from .spectrum import Spectrum


def doctor(*, engine: Annotated[str | None, typer.Option(metavar="E")] = None) -> list[dict[str, Any]]:
    """Say what this machine can run: engines, GPUs, versions, free space.

    Args:
        engine: ask about one engine, or auto, only; an error if it is not ready.

    Returns rows of `what` and `found`. Raises EngineError where the one engine is not ready.
    """
    from .hardware import inspect_machine, require_engine

    findings = inspect_machine() if engine is None else [require_engine(engine)]
    return [{"what": subject, "found": finding} for subject, finding in findings]


Checkpoints = Annotated[
    Sequence[str],
    typer.Argument(
        metavar="NAME",
        help="Names as `list` shows them, category:C for those of a category, all for all 48.",
    ),
]


def list_checkpoints(
    names: Checkpoints = (), *, verify: Annotated[bool, typer.Option("--verify")] = False
) -> list[dict[str, Any]]:
    """List the checkpoints.

    Args:
        names: names, `category:NAME` for those of a category, or `all`; none stands for all.
        verify: compare the stored weights with the lock file instead; nothing is downloaded.
    """
    from ...export.weights.fetch import verify as verify_files

    selection = select(listed(names) or ["all"])
    if verify:
        return [asdict(state) for published in selection for state in verify_files(published)]
    columns = ("name", "category", "published_top1", "normalization", "licence", "source")
    return [{column: getattr(published, column) for column in columns} for published in selection]


def fetch_weights(names: Checkpoints) -> Iterator[Path]:
    """Download weights and verify them; an interrupted download goes on.

    Returns the path of each file as soon as it is there. One that cannot be fetched stops no other: CheckpointError
    names these at the end.
    """
    from ...export.weights.fetch import fetch

    jobs, failed = {published.name: partial(fetch, published) for published in select(listed(names))}, list[str]()

    def fetch_each() -> Iterator[Path]:
        for paths in attempt(jobs, failed):
            yield from paths or ()
        if failed:
            raise CheckpointError(f"{len(failed)} not fetched: {', '.join(failed)}; run the same command to go on")

    return fetch_each()


TIMM = "timm:"
"""The beginning of a word that stands for a pretrained model of timm."""


def export_model(
    source: File | nn.Module | Backbone | MultiLabel,
    name: str | None = None,
    *,
    architecture: str | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    image_size: int | None = None,
    outputs: Literal["logits"] | None = None,
    class_names: Sequence[str] | None = None,
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
            for all; 0 where it does that itself. Checkpoints, networks of timm and most folders know theirs.
        std: by which it expects them to be divided, likewise; 1 where it does that itself.
        image_size: width and height of the images, pixels; 224 by default, or what an ONNX file says.
        outputs: logits where a network's outputs are logits though they look like features or probabilities.
        class_names: a name for each class in the order of the logits; a `Backbone` has its own.
        reading: how a file of weights is read: its key rule, which of several weights are meant, and whether it may
            run its code.
        out: the folder of the models; by default $BANDLENS_HOME/models.

    Raises CheckpointError, ExportError, UnknownName, UsageError.
    """
    if isinstance(source, Backbone) and (outputs, class_names) != (None, None):
        raise UsageError("outputs and class_names are for a network without a head, which has its own; leave it out")
    head = source.request() if isinstance(source, Backbone) else None
    multilabel = isinstance(source, MultiLabel)
    if isinstance(source, (Backbone, MultiLabel)):
        source = source.source
    if isinstance(source, PathLike) or (isinstance(source, str) and architecture is not None):
        _check_file(Path(source), architecture, reading)
    channels = None if mean is None or std is None else (channels_of("mean", mean), channels_of("std", std))
    is_published = name is None and any(source == published.name for published in checkpoints())
    is_file = isinstance(source, (str, PathLike)) and Path(source).is_file() and not is_published
    from ...export.assembly import PLAIN, import_onnx
    from ...export.onnx.outputs import Outputs

    if not is_file or architecture is not None:
        with naming_extras("an export of anything but an ONNX file"):
            from ...export import pipeline
    folder, size = folder_of_models(out), image_size or SIZE
    request = head or Outputs(multilabel, outputs is not None, class_names)
    # A checkpoint needs no name and a folder does, so that a folder beside it hides no checkpoint.
    if isinstance(source, (str, PathLike)) and name is not None and Path(source).is_dir():
        if architecture is not None or (mean is None) != (std is None):
            raise UsageError(
                f"{source} is a folder, whose config.json names the architecture; leave that out, and give mean and "
                "std both or neither"
            )
        return pipeline.export_classifier(Path(source), name, channels, folder, image_size=image_size, request=request)[
            0
        ]
    if isinstance(source, str) and architecture is None and not is_file:
        if (name, mean, std) != (None, None, None):
            raise UsageError(f"{source} is no file, and a checkpoint has its own name, mean and std; leave them out")
        if request != PLAIN and (head is None or not source.startswith(TIMM)):
            raise UsageError(f"{source} is no file of weights, and a published checkpoint has classes of its own")
        if not source.startswith(TIMM):
            return pipeline.export_checkpoint(source, folder, image_size=size, trust=reading.trust)[0]
        if image_size is not None:
            raise UsageError(f"{source} takes images of its own size; leave out image_size")
        return pipeline.export_pretrained(source.removeprefix(TIMM), folder, request=head)[0]
    knows_images = (mean, std) == (None, None) and is_of_timm(source)
    if name is not None and (channels or knows_images) and not isinstance(source, (str, PathLike)):
        return pipeline.export_network(source, name, channels, folder, image_size=image_size, request=request)[0]
    if name is None or channels is None or not isinstance(source, (str, PathLike)):
        raise UsageError(
            f"give {name or 'the model a name, and'} the mean and std of each channel that the network is used to, on "
            "the command line --normalization imagenet, none, or MEAN:STD"
        )
    file = Path(source)
    if architecture is None:
        return import_onnx(file, name, channels, folder, image_size=image_size, request=request)[0]
    return pipeline.export_user_checkpoint(
        file, name, architecture, channels, folder, image_size=size, reading=reading, request=request
    )[0]


def export_function(
    function: Callable[..., Any],
    name: str,
    version: str | None = None,
    *,
    layout: Layout = "nhwc",
    image_size: int = SIZE,
    out: File | None = None,
) -> Model:
    """Make a model of a function from images to logits: of JAX, TensorFlow, scikit-learn, a web service.

    Studies run it in this process, with the engine `function`. Nobody can see whether two functions are the same, so
    predictions belong to the name and the version. Without a version they belong to this call alone, and later calls
    do not reuse them.

    Args:
        function: from float32 RGB images in [0, 1] to (n, classes) logits, an array of any library.
        name: what studies call the model.
        version: another one whenever the function changes. A run that finds predictions of the version first computes
            some of them again, and refuses a function that gives others.
        layout: `nhwc`, images of shape (n, height, width, 3); or `nchw`, (n, 3, height, width).
        image_size: width and height of the images, pixels.
        out: the folder of the models; by default $BANDLENS_HOME/models.

    Raises UsageError for a function that gives no such logits of two images, or others when it is asked again, and for
    a name and version that stand for another function in this process.
    """
    from ...export import functions

    return functions.export_function(function, name, version, folder_of_models(out), layout, image_size)


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


def describe_model(name: str, out: File | None = None) -> dict[str, Any]:
    """The description of an exported model, as it lies beside its file."""
    from ...export.model_files import describe_model

    return describe_model(folder_of_models(out), name)


def sensitivity(
    model: str,
    image_set: PackedSet,
    models: File | None = None,
    *,
    engine: str = "torch",
    progress: Progress = silent,
) -> Spectrum:
    """Measure along which frequencies the loss of a model rises: its Fourier sensitivity by octave and by ring.

    The shares of the gradient's energy, means over images with 95 % intervals over clusters, add up to 1. They are not
    stored.

    Args:
        model: an exported model.
        models: the folder of the models; by default that of `export`.
        engine: torch or torch-cuda: one with gradients.
    """
    from ...export.model_files import load_model
    from ...probes.images.image_set import open_image_set
    from .spectrum import measure_sensitivity

    network = load_model(folder_of_models(models), model)
    return measure_sensitivity(network, open_image_set(Path(image_set)), engine, progress)


def folder_of_models(out: File | None) -> Path:
    """The folder, by default that of all models; UsageError for a file."""
    from ...export.model_files import models_folder

    folder = path_of(out) or models_folder()
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name a folder for models with --out")
    return folder
