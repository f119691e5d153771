"""`bandlens export`: checkpoints and own weights to ONNX."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import ExportError, UnknownName, UsageError
from ...export.registry import NORMALIZATIONS, Channels, Checkpoint, select
from ..console import Json, print_rows, progress
from .checkpoints import Category, Every, Names, for_each

if TYPE_CHECKING:
    from ...export.parity import Parity
    from ...records import Model

OWN = "Own weights"


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
    out: Annotated[Path | None, typer.Option(help="Folder of the models (default: $BANDLENS_HOME/models).")] = None,
    json: Json = False,
) -> None:
    """Export checkpoints, fetched if need be, or a file of your own to ONNX, and compare the result with torch.

    Examples: bandlens export tv_resnet50, bandlens export --category contrastive --out models,
    bandlens export --file mine.pth --name mine --architecture resnet18 --normalization imagenet
    """
    rows: list[dict[str, Any]] = []

    def export_one(one: Checkpoint) -> None:
        from ...export.pipeline import export_checkpoint

        rows.append(_row(*export_checkpoint(one.name, out, image_size=image_size, trust=trust)))

    failed: list[str] = []
    if file is None:
        chosen = select(names or [], every, category)
        with progress("exporting", len(chosen), "checkpoints", delay=0) as advance:
            failed = for_each(chosen, export_one, advance)
    else:
        if names or every or category is not None:
            raise UsageError("--file exports your own weights; leave out NAME…, --all and --category")
        if name is None or architecture is None:
            raise UsageError("--file also needs --name and --architecture")
        mean_std = channels(mean, std, normalization)
        from ...export.pipeline import export_user_checkpoint

        with progress(f"exporting {name}", 1, "checkpoints", delay=0):
            own = export_user_checkpoint(
                file, name, architecture, *mean_std, out, image_size=image_size, rule=rule, trust=trust
            )
        rows.append(_row(*own))
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


def _row(model: Model, parity: Parity) -> dict[str, Any]:
    return {
        "name": model.name,
        "sha256": model.sha256[:16],
        "classes": model.classes,
        "images": parity.images,
        "relative_difference": parity.relative_difference,
        "top1_disagreements": parity.top1_disagreements,
        "file": str(model.path),
    }
