"""Checkpoints, and what is exported of them; and what this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.errors import CheckpointError, UsageError
from ...core.jobs import Progress, silent
from ...core.protocol import SIZE
from ...export.export import ExportOptions, export
from ...export.weights.study_checkpoints import OWN_WEIGHTS, Reading, select
from .export import Backbone, MultiLabel, add_outputs, attempt
from .parameters import File, Layout, PackedSet, listed, path_of

if TYPE_CHECKING:
    from torch import nn

    from ...core.records import Model
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
    options = ExportOptions(
        folder_of_models(out),
        name,
        architecture=architecture,
        mean=mean,
        std=std,
        image_size=image_size,
        outputs=outputs,
        class_names=class_names,
        reading=reading,
    )
    return export(*add_outputs(source, options))


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
