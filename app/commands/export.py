"""`bandlens export`: checkpoints and own weights to ONNX, at each precision, and to TensorRT plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial, reduce
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import ExportError, UnknownName, UsageError
from ...core.protocol import SIZE
from ...core.records import MULTILABEL
from ...export.class_names import read_class_names
from ...export.files import models_folder
from ...export.models import categorize_model, check_name
from ...export.normalization import NORMALIZATIONS, Channels
from ...export.weights.registry import OWN, Reading
from .. import api
from ..api.options import complete_checkpoint
from ..console import TableFormat, log, print_rows, progress
from ..export import (
    Backbone,
    Exports,
    Lowering,
    MultiLabel,
    attempt,
    check_calibration,
    chosen_names,
    lower,
    name_sources,
    named_models,
    pretrained_models,
    read_precisions,
)
from ..formats import Format

if TYPE_CHECKING:
    from ...core.records import Model

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME…", help="Names as `list` shows them.", autocompletion=complete_checkpoint),
]
Every = Annotated[bool, typer.Option("--all", help="All 48.")]
Category = Annotated[str | None, typer.Option("--category", metavar="C", help="Those of one category.")]
LOWER = "Precisions and plans"
HEAD = "A head for features"
Size = Annotated[
    int | None,
    typer.Option("--image-size", min=32, help="Width and height of the images, pixels.", show_default=str(SIZE)),
]
Trust = Annotated[bool, typer.Option("--trust", help="Let the weights file run its code.")]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", help="fp32, fp16 or int8, or several: fp16,int8 (default: fp32).", rich_help_panel=LOWER
    ),
]
CalibrationSet = Annotated[
    Path | None,
    typer.Option(
        "--calibration", help="A packed image set, 300 images of which int8 is calibrated on.", rich_help_panel=LOWER
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="Images that a TensorRT plan takes at once.",
        show_default="the tuned one, or 256",
        rich_help_panel=LOWER,
    ),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="Measure engines and batches on the first model, for studies that name none.",
        rich_help_panel=LOWER,
    ),
]
HeadOf = Annotated[
    Path | None,
    typer.Option(
        "--head",
        metavar="SET|PROMPTS",
        help="A packed, labelled image set to train a head on, or class embeddings: .npy or .safetensors.",
        rich_help_panel=HEAD,
    ),
]
Method = Annotated[str, typer.Option("--method", help="ridge or logistic.", rich_help_panel=HEAD)]
Pool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        help="token or mean, of features of tokens or positions.",
        rich_help_panel=HEAD,
        show_default="that of the network",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the folds of cross-validation.", rich_help_panel=HEAD)]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="The names of the classes, one a line in the order of the outputs; labels are matched by them.",
        show_default="those that the file or image set holds",
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE…", help="Files of weights, or folders that transformers saved.", show_default=False),
]
OwnName = Annotated[
    str | None, typer.Option("--name", help="The name of the model made of it.", show_default="that of the file")
]
OwnCategory = Annotated[
    str, typer.Option("--category", metavar="C", help="What charts and `category:C` in a study put it in.")
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        help="What the weights belong to: a torchvision or timm model, or module:callable('text', number=1).",
        show_default=False,
    ),
]
FinishedFile = Annotated[
    Path | None,
    typer.Option("--onnx", metavar="FILE…", help="Finished ONNX files instead of weights.", show_default=False),
]
Mean = Annotated[
    str | None, typer.Option("--mean", help="Per RGB channel, of images in [0, 1]: 0.485,0.456,0.406 or 127/255.")
]
Std = Annotated[str | None, typer.Option("--std", help="Likewise.")]
Normalization = Annotated[
    str | None, typer.Option("--normalization", help="imagenet or none, instead of --mean and --std.")
]
Rule = Annotated[str, typer.Option("--rule", help="How its keys are read, as `checkpoints show` names it.")]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ema|raw|KEY",
        help="Of a file with several weights: their moving average, the others, or those at a key.",
        show_default="ema where there is one",
    ),
]
Task = Annotated[
    str | None,
    typer.Option("--task", metavar=MULTILABEL, help="Each output is a label by itself, and images may have several."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="TENSOR",
        help="The tensor of an ONNX file that holds the features.",
        rich_help_panel=HEAD,
        show_default="its one output",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the models (default: $BANDLENS_HOME/models).")]


def export(
    names: Names = None,
    every: Every = False,
    category: Category = None,
    timm: Annotated[
        list[str] | None,
        typer.Option("--timm", metavar="NAME", help="A pretrained model of timm, from the Hugging Face hub."),
    ] = None,
    head: HeadOf = None,
    method: Method = "ridge",
    pool: Pool = None,
    seed: Seed = 0,
    classes: Classes = None,
    image_size: Size = None,
    trust: Trust = False,
    precision: Precisions = None,
    calibration: CalibrationSet = None,
    batch: Batch = None,
    tune: Tune = False,
    out: Out = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Export checkpoints to ONNX, and to TensorRT plans where there is a GPU.

    fp32 must equal torch on photographs. fp16 and int8 are made of it, and how far they lie from it is reported. Own
    models, made by `bandlens export-own`, go by their names.

    A model of timm keeps its own normalization, image size and crop; a study says which image sets it needs. With
    --head it becomes NAME+SET, a classifier of the head's classes.

    Examples: bandlens export tv_resnet50, bandlens export --all --precision fp16,int8 --calibration val.set,
    bandlens export --timm vit_tiny_patch16_224,
    bandlens export --timm vit_small_patch14_dinov2 --head train.set
    """
    lowering = Lowering(read_precisions(precision or ["fp32"]), calibration, batch, tune)
    if head is None and (classes, method, pool, seed) != (None, "ridge", None, 0):
        raise UsageError("--method, --pool, --seed and --classes are about a head; give one with --head")
    if head is not None and (not timm or names or every or category):
        raise UsageError("--head is for models of timm; name them with --timm alone, or see `bandlens export-own`")
    sources: Sequence[str | Backbone] = timm or ()
    if head is not None:
        class_names = None if classes is None else read_class_names(classes)
        sources = [Backbone(name, head, method, pool, None, seed, class_names, progress) for name in timm or ()]
    if sources and image_size is not None:
        raise UsageError("--timm takes images of the model's own size; leave out --image-size")
    folder, models = out or models_folder(), Exports()
    pretrained = pretrained_models(sources, folder) if sources else {}
    if names or every or category is not None or not sources:
        chosen = chosen_names(names or (), every, category, folder)
        models = named_models(chosen, lowering, folder, image_size, trust)
    models |= pretrained
    check_calibration(models, lowering, folder)
    _export(models, lowering, table_format)


def export_own(
    files: Files = None,
    name: OwnName = None,
    category: OwnCategory = OWN,
    architecture: Architecture = None,
    onnx: FinishedFile = None,
    mean: Mean = None,
    std: Std = None,
    normalization: Normalization = None,
    rule: Rule = OWN,
    weights: WeightsKey = None,
    classes: Classes = None,
    task: Task = None,
    head: HeadOf = None,
    output: Output = None,
    method: Method = "ridge",
    pool: Pool = None,
    seed: Seed = 0,
    image_size: Size = None,
    trust: Trust = False,
    precision: Precisions = None,
    calibration: CalibrationSet = None,
    batch: Batch = None,
    tune: Tune = False,
    out: Out = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Export your own weights to ONNX, and to a TensorRT plan where there is a GPU.

    The same checks as for `bandlens export`; afterwards the model goes by its name there. A torchvision or timm model
    gets as many classes as the weights have. Of weights and their moving average in one file the average is taken, and
    a line says so. Of an ONNX file that normalizes, the normalization is `none`. A folder that transformers saved an
    image classifier in says its normalization, size and crop itself. With --head the outputs are features, and the
    model has the head's classes.

    Examples: bandlens export-own mine.pth --architecture resnet18 --normalization imagenet,
    bandlens export-own runs/*.pth --category mine --architecture resnet18 --normalization imagenet,
    bandlens export-own --onnx mine.onnx --normalization imagenet, bandlens export-own saved_by_transformers
    """
    lowering = Lowering(read_precisions(precision or ["fp32"]), calibration, batch, tune)
    if onnx is not None and (architecture, weights, trust, rule) != (None, None, False, OWN):
        raise UsageError("an ONNX file is the whole network; leave out weights, --architecture and what is about them")
    # A shell writes the rest of `--onnx *.onnx` where files of weights stand.
    sources = [*([] if onnx is None else [onnx]), *(files or ())]
    of_weights = onnx is None and not all(source.is_dir() for source in sources)
    if not sources or (of_weights and architecture is None):
        raise UsageError(
            "give files of weights with their --architecture and --normalization (or --mean and --std), folders that "
            "transformers saved, or finished networks with --onnx and --normalization"
        )
    describes_itself = not of_weights and onnx is None and (mean, std, normalization) == (None, None, None)
    mean_channels, std_channels = (None, None) if describes_itself else channels(mean, std, normalization)
    if head is None and (output, method, pool, seed) != (None, "ridge", None, 0):
        raise UsageError("--output, --method, --pool and --seed are about a head; give one with --head")
    if task not in (None, MULTILABEL):
        raise UnknownName("task", task, [MULTILABEL])
    if task is not None and head is not None:
        raise UsageError("a head has classes of which an image has one; leave out --task or --head")
    class_names = None if classes is None else read_class_names(classes)
    named = name_sources(sources, name)
    check_name(category, "category")
    if onnx is None:  # a finished file may be int8 itself
        check_calibration(named, lowering, out or models_folder())

    def export_model(source: Path, name: str) -> Model:
        network: Path | Backbone | MultiLabel = source if task is None else MultiLabel(source)
        if head is not None:
            network = Backbone(source, head, method, pool, output, seed, class_names, progress)
        model = api.models.export(
            network,
            name,
            architecture=architecture,
            mean=mean_channels,
            std=std_channels,
            image_size=image_size,
            reading=Reading(rule, weights, trust),
            out=out,
        )
        model = categorize_model(model, category)
        if head is None:
            if class_names is not None:
                api.models.name_classes(model, class_names)
            _tell_choices(name, api.models.describe_model(name, out), named_by_user=class_names is not None)
        return model

    def with_choice(row: dict[str, Any]) -> dict[str, Any]:
        choice = api.models.describe_model(row["name"], out).get("weights", NO_CHOICE)
        return row | {"weights": choice["taken"], "weights_left": choice["left"]}

    models: Exports = {name: partial(export_model, source, name) for name, source in named.items()}
    _export(models, lowering, table_format, with_choice if table_format.is_for_programs else None)


NO_CHOICE: Mapping[str, Any] = {"taken": None, "left": [], "ema": False}
"""The choice of weights in a file with one kind of them."""


def _tell_choices(name: str, description: Mapping[str, Any], named_by_user: bool) -> None:
    """Say what was taken of a file of weights that holds more than one model needs."""
    if not named_by_user and "class_names" in description:
        log.info(f"bandlens: {name}: took the names of its classes from the file; --classes FILE gives others")
    for line in description.get("adapted", ()):
        log.info(f"bandlens: {name}: {line}")
    choice = description.get("weights", NO_CHOICE)
    if choice["left"]:
        average = "the moving average " if choice["ema"] else ""
        log.info(
            f"bandlens: {name}: took {average}{choice['taken']} and left {', '.join(choice['left'])}; --weights "
            "ema|raw|KEY takes others"
        )


def _export(
    models: Exports,
    lowering: Lowering,
    table_format: Format,
    complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Export, and print a row for each ONNX file, with what `complete` adds to it."""
    rows: list[dict[str, Any]] = []

    def make_files(export_or_load: Callable[[], Model]) -> None:
        model = export_or_load()
        if model.head is not None and model.head.accuracy is not None:
            log.info(
                f"bandlens: {model.name}: a {model.head.method} head on {model.head.images:,} images of "
                f"{model.head.source} is right on {model.head.accuracy:.1%} of held-out images, with strength "
                f"{model.head.strength:g}"
            )
        rows.extend(lower(model, lowering))

    failed: list[str] = []
    with progress("exporting", len(models), "checkpoints", delay=0) as advance:
        for _ in attempt({name: partial(make_files, make) for name, make in models.items()}, failed):
            advance()
    print_rows(rows if complete is None else list(map(complete, rows)), table_format)
    if failed:
        raise ExportError(f"{len(failed)} not exported: {', '.join(failed)}; run the same command to try these again")


def channels(mean: str | None, std: str | None, normalization: str | None) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel from the command line; UsageError if it says neither or both."""
    if normalization is not None and mean is None and std is None:
        if normalization not in NORMALIZATIONS:
            raise UnknownName("normalization", normalization, NORMALIZATIONS, "or give --mean and --std")
        return NORMALIZATIONS[normalization]
    if normalization is None and mean is not None and std is not None:
        return _three("--mean", mean), _three("--std", std)
    raise UsageError("say how the network normalizes: either --normalization imagenet|none, or --mean and --std")


def _three(option: str, text: str) -> Channels:
    """Three numbers, or one for all: decimals, or one decimal over another, such as 127/255 or 123.68/255.

    UsageError beyond [0, 1], where no mean or deviation of images in [0, 1] is: those of images to 255 want a /255.
    """
    try:
        # Fraction reads neither nan nor inf; the division is that of floats, so that Python's 123.68/255 is the same.
        quotients = [[float(Fraction(part.strip())) for part in number.split("/")] for number in text.split(",")]
        numbers = [reduce(truediv, quotient) for quotient in quotients if len(quotient) < 3]
    except (ValueError, ZeroDivisionError, OverflowError):
        numbers = []
    if len(numbers) not in (1, 3) or (option == "--std" and min(numbers) <= 0):
        raise UsageError(f"cannot read {option} {text}; write three numbers such as 0.485,0.456,0.406, --std above 0")
    if not (min(numbers) >= 0 and max(numbers) <= 1):
        raise UsageError(f"{option} {text} is not of images in [0, 1]; divide those of images to 255, as in 123.68/255")
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue
