"""`bandlens export`: checkpoints and own weights to ONNX, at each precision, and to TensorRT plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ....core.errors import BandlensError, ExportError, UnknownName, UsageError
from ....core.log import log
from ....export.class_names import read_class_names
from ....export.export import TIMM, ExportOptions, export
from ....export.model_files import categorize_model, check_name, load_model, model_names
from ....export.weights.study_checkpoints import CATEGORY, OWN, Reading, checkpoints, select
from ...api import models
from ...api.export import (
    Backbone,
    Exports,
    Lowering,
    add_outputs,
    attempt,
    lower,
    name_sources,
    read_head,
    read_normalization,
)
from ...api.parameters import File
from ..command_factory import command
from ..console import progress
from ..tables import Format, TableFormat, print_rows

if TYPE_CHECKING:
    from ....core.records import Model

Rows = list[dict[str, Any]]

TUNE = 0
"""The number that stands for the tuned batch, which is not measured yet: `--batch tune`."""


def read_batch(text: str) -> int:
    """The images of a batch in words of the option, or TUNE."""
    if text == "tune":
        return TUNE
    if text.isdecimal() and int(text):
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number of images nor tune")


def export_words(
    sources: Annotated[Sequence[str], typer.Argument(metavar="SOURCE", show_default=False)],
    *,
    name: str | None = None,
    category: Annotated[str, typer.Option(metavar="C")] = OWN,
    architecture: str | None = None,
    normalization: Annotated[str | None, typer.Option(metavar="imagenet|none|MEAN:STD")] = None,
    weights: Annotated[str | None, typer.Option(metavar="ema|raw|KEY")] = None,
    classes: Annotated[File | None, typer.Option(metavar="FILE")] = None,
    head: Annotated[str | None, typer.Option(metavar="SET|PROMPTS|FILE.toml|multilabel")] = None,
    outputs: Literal["logits"] | None = None,
    image_size: Annotated[int | None, typer.Option(min=8)] = None,
    trust: Annotated[bool, typer.Option("--trust")] = False,
    precision: Sequence[str] = ("fp32",),
    calibration: Annotated[File | None, typer.Option(metavar="SET")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N|tune", parser=read_batch)] = None,
    out: File | None = None,
) -> tuple[Rows, list[str]]:
    """Export checkpoints to ONNX, and to TensorRT plans where there is a GPU.

    A SOURCE is one of the 48 (`checkpoints list`), category:C or all of these; a pretrained model of timm, timm:NAME;
    an exported model; or your own: a file of weights with its --architecture and --normalization, a finished ONNX file
    with its --normalization, or a folder that transformers saved an image classifier in. Yours go by their names
    afterwards.

    fp32 must equal torch on photographs. fp16 and int8 are made of it, and how far they lie from it is reported. A
    torchvision or timm architecture gets as many classes as the weights have. Where a file has weights and
    their moving average, the average is taken, and a line says so. A model of timm and a folder keep their own
    normalization, image size and crop; a study says which image sets they need. With --head a network of features
    becomes a classifier of the head's classes; one of timm is called NAME+SET.

    Args:
        name: the name of the model made of a file; that of the file by default.
        category: what charts and `category:C` in a study put your models in.
        architecture: what the weights belong to: a torchvision or timm model, or module:callable('text', number=1).
        normalization: by name, or per RGB channel of images in [0, 1]: 0.485,0.456,0.406:0.229,0.224,0.225, or
            127/255:128/255.
        weights: of a file with several weights: their moving average, the others, or those at a key; by default ema
            where there is one.
        classes: the names of the classes, one a line in the order of the outputs; labels are matched by them. By
            default those that the file or image set holds.
        head: what classes are made by: a packed, labelled image set to train a head on; class embeddings, .npy or
            .safetensors; a file that has either as `head` and may have `method`, `pool`, `output` and `seed`; or
            multilabel, where each output is a label by itself, and images may have several.
        outputs: logits where a network's outputs are logits though they look like features or probabilities.
        image_size: width and height of the images, pixels; 224 by default.
        trust: let the weights file run its code.
        precision: one of fp32, fp16 and int8, or several: fp16,int8.
        calibration: a packed image set, 300 images of which int8 is calibrated on.
        batch: images that a TensorRT plan takes at once; by default the tuned number, or 256. With tune, engines and
            batches are measured on the first model, for studies that name none.
        out: the folder of the models; by default $BANDLENS_HOME/models.

    Returns a row for each ONNX file, and the names of models that could not be exported.
    """
    precisions = dict.fromkeys(name.strip() for word in precision for name in word.split(","))
    lowering = Lowering([*precisions], calibration, batch or None, batch == TUNE)
    folder = models.folder_of_models(out)
    class_names = None if classes is None else read_class_names(Path(classes))
    with_head = None if head is None else read_head(head, class_names, progress)
    if calibration is not None:
        from ....probes.images.storage import read_description

        read_description(Path(calibration))  # before models are made
    reading, published = Reading(OWN, weights, trust), [checkpoint.name for checkpoint in checkpoints()]

    def export_name(word: str) -> Model:
        if with_head is None and word in exported and not (word in published and "fp32" in lowering.precisions):
            return load_model(folder, word)
        source = word if with_head is None else with_head(word)
        return export(*add_outputs(source, ExportOptions(folder, image_size=image_size, reading=reading)))

    exported = model_names(folder)
    names, files = _read_words(sources, folder, published, exported, weights=architecture is not None)
    exports: Exports = {name: partial(export_name, name) for name in names}
    options_of_files = {
        "--name": name,
        "--architecture": architecture,
        "--normalization": normalization,
        "--weights": weights,
        "--outputs": outputs,
    }
    for option, value in options_of_files.items():
        if value is not None and not files:
            raise UsageError(f"{option} is about weights and files of your own; leave it out, or name one")
    own_sources = name_sources(files, name)
    if own_sources:
        check_name(category, "category")
        mean, std = (None, None) if normalization is None else read_normalization(normalization)
        file_options = ExportOptions(
            folder,
            architecture=architecture,
            mean=mean,
            std=std,
            image_size=image_size,
            outputs=outputs,
            reading=reading,
        )

        def export_file(source: Path, model_name: str) -> Model:
            earlier = None
            with suppress(BandlensError):  # there is none, or one that is damaged
                earlier = load_model(folder, model_name)
            network = source if with_head is None else with_head(source)
            options = replace(
                file_options, name=model_name, class_names=None if isinstance(network, Backbone) else class_names
            )
            model = export(*add_outputs(network, options))
            if earlier is not None and earlier.sha256 != model.sha256:
                log.warning(f"bandlens: warning: {model_name} replaces the model of {earlier.source} in {folder}")
            model = categorize_model(model, category)
            if model.head is None:
                _tell_choices(model_name, models.describe_model(model_name, out), class_names is not None)
            return model

        exports |= {key: partial(export_file, source, key) for key, source in own_sources.items()}
    return _lower_all(exports, lowering)


def _read_words(
    words: Sequence[str], folder: Path, published: Sequence[str], exported: Sequence[str], weights: bool
) -> tuple[list[str], list[Path]]:
    """The names, and the files; UnknownName for a word that is neither.

    A file that is there is meant rather than a model of its name that is `exported` in `folder`, and one of the 48,
    which are `published`, rather than a file. With `weights` a word that is no name is a file of weights, though there
    is none.
    """
    names: list[str] = []
    files: list[Path] = []
    for word in words:
        path = Path(word)
        if word == "all" or word.startswith(CATEGORY) or word in published:
            names += [checkpoint.name for checkpoint in select([word])]
        elif word.startswith(TIMM) or (word in exported and not path.exists() and path.suffix != ".onnx"):
            names.append(word)
        elif path.exists() or path.suffix == ".onnx" or weights:
            files.append(path)
        else:
            hint = (
                "see `bandlens checkpoints list`; weights of your own are named by their file, and --out names the "
                f"folder of exported models where that is not {folder}"
            )
            raise UnknownName("checkpoint", word, [*published, *exported, *map(str, path.parent.glob("*"))], hint)
    return names, files


def _lower_all(exports: Exports, lowering: Lowering) -> tuple[Rows, list[str]]:
    def make_files(export_or_load: Callable[[], Model]) -> Rows:
        model = export_or_load()
        if model.head is not None and model.head.accuracy is not None and model.head.strength is not None:
            from ....export.heads.linear import strength_in_words

            log.info(
                f"bandlens: {model.name}: a {model.head.method} head on {model.head.images:,} images of "
                f"{model.head.source} is right on {model.head.accuracy:.1%} of held-out images, with strength "
                f"{strength_in_words(model.head.strength)}"
            )
        return lower(model, lowering)

    rows: Rows = []
    failed: list[str] = []
    with progress("exporting", len(exports), "checkpoints", delay=0) as advance:
        for files in attempt({name: partial(make_files, make) for name, make in exports.items()}, failed):
            rows += files or []
            advance()
    return rows, failed


def _tell_choices(name: str, description: Mapping[str, Any], named_by_user: bool) -> None:
    """Say what was taken of a file of weights that holds more than one model needs."""
    if not named_by_user and "class_names" in description:
        log.info(f"bandlens: {name}: took the names of its classes from the file; --classes FILE gives others")
    for line in description.get("adapted", ()):
        log.info(f"bandlens: {name}: {line}")
    choice = description.get("weights")
    if choice and choice["left"]:
        average = "the moving average " if choice["ema"] else ""
        log.info(
            f"bandlens: {name}: took {average}{choice['taken']} and left {', '.join(choice['left'])}; --weights "
            "ema|raw|KEY takes others"
        )


def print_exports(exported: tuple[Rows, list[str]], table_format: TableFormat = Format.table) -> None:
    """Examples: bandlens export tv_resnet50, bandlens export all --precision fp16,int8 --calibration val.set,
    bandlens export runs/*.pth --category mine --architecture resnet18 --normalization imagenet,
    bandlens export mine.onnx --normalization none, bandlens export timm:vit_small_patch14_dinov2 --head train.set
    """
    rows, failed = exported
    print_rows(rows, table_format)
    if failed:
        raise ExportError(
            f"{len(failed)} not exported: {', '.join(failed)}; mend what is said above, and run these again"
        )


COMMANDS: dict[str, Any] = {"export": command(export_words, print_exports)}
