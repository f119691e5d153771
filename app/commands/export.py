"""`bandlens export`: checkpoints and own weights to ONNX, at each precision, and to TensorRT plans."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import ExportError, UnknownName, UsageError
from ...export.files import models_folder
from ...export.registry import NORMALIZATIONS, Channels
from ...records import Model
from ..console import Json, print_rows, progress
from ..exporting import Source, Wanted, check_calibration, plan_builder, read_precisions, rows_of, sources
from .checkpoints import Category, Every, Names, for_each

OWN = "Own weights"
LOWER = "Precisions and plans"


def export(
    names: Names = None,
    every: Every = False,
    category: Category = None,
    file: Annotated[Path | None, typer.Option(help="A file of weights.", rich_help_panel=OWN)] = None,
    name: Annotated[str | None, typer.Option(help="The name of the model made of it.", rich_help_panel=OWN)] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="What the weights belong to: a torchvision or timm model, or module:callable('text', number=1).",
            rich_help_panel=OWN,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Per RGB channel, of images in [0, 1]: 0.485,0.456,0.406 or 127/255.", rich_help_panel=OWN),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.", rich_help_panel=OWN)] = None,
    normalization: Annotated[
        str | None, typer.Option(help="imagenet or none, instead of --mean and --std.", rich_help_panel=OWN)
    ] = None,
    rule: Annotated[
        str, typer.Option(help="How its keys are read, as `checkpoints show` names it.", rich_help_panel=OWN)
    ] = "own",
    image_size: Annotated[int, typer.Option(min=32, help="Width and height of the images, pixels.")] = 224,
    trust: Annotated[bool, typer.Option("--trust", help="Let the weights file run its code.")] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, fp16 or int8, or several: fp16,int8 (default: fp32).", rich_help_panel=LOWER),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A packed image set, 300 images of which int8 is calibrated on.", rich_help_panel=LOWER),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that a plan takes at once.", rich_help_panel=LOWER)] = 256,
    refit: Annotated[
        bool, typer.Option("--refit", help="One plan for all models of equal structure.", rich_help_panel=LOWER)
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the models (default: $BANDLENS_HOME/models).")] = None,
    json: Json = False,
) -> None:
    """Export checkpoints, fetched if need be, or your own weights to ONNX, and to TensorRT plans where there is a GPU.

    fp32 must equal torch on photographs. fp16 and int8 are made of it, and how far they lie from it is reported.
    Own models that are exported already go by their names.

    Examples: bandlens export tv_resnet50, bandlens export --all --precision fp16,int8 --calibration val.set,
    bandlens export --file mine.pth --name mine --architecture resnet18 --normalization imagenet
    """
    folder, precisions = out or models_folder(), read_precisions(precision or ["fp32"])
    if refit and "int8" in precisions:
        raise UsageError("--refit is for fp32 and fp16: an int8 graph has scales of its own; leave out one of the two")
    if file is None:

        def known(name: str) -> Model:
            from ...export.pipeline import export_checkpoint

            return export_checkpoint(name, folder, image_size=image_size, trust=trust)[0]

        chosen = sources(names or [], every, category, folder, known, anew="fp32" in precisions)
    else:
        if names or every or category is not None:
            raise UsageError("--file exports your own weights; leave out NAME…, --all and --category")
        if name is None or architecture is None:
            raise UsageError("--file also needs --name and --architecture")
        mean_std = channels(mean, std, normalization)

        def own() -> Model:
            from ...export.pipeline import export_user_checkpoint

            return export_user_checkpoint(
                file, name, architecture, *mean_std, folder, image_size=image_size, rule=rule, trust=trust
            )[0]

        chosen = [Source(name, own)]
    check_calibration([one.name for one in chosen], folder, precisions, calibration)
    wanted = Wanted(precisions, calibration, plan_builder(batch, refit))
    rows: list[dict[str, Any]] = []

    def make(one: Source) -> None:
        rows.extend(rows_of(one.model(), wanted))

    with progress("exporting", len(chosen), "checkpoints", delay=0) as advance:
        failed = for_each(chosen, make, advance)
    print_rows(rows, json)
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
    """Three numbers, or one for all: decimals, or fractions such as 127/255."""
    try:
        numbers = [float(Fraction(number.strip())) for number in text.split(",")]
    except (ValueError, ZeroDivisionError):
        numbers = []
    if len(numbers) not in (1, 3) or (option == "--std" and min(numbers) <= 0):
        raise UsageError(f"cannot read {option} {text}; write three numbers such as 0.485,0.456,0.406, --std above 0")
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue
