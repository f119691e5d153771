"""One call from a model and images to the answer: exported, packed, run as far as the time reaches, and told."""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil, inf
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import UsageError, duration, plural, quoted, some_of, writing
from ...core.files import write_bytes
from ...core.jobs import Progress, processors, silent
from ...core.protocol import CLASSES, SIZE
from ...core.records import PUBLISHED_CROP, Model, enlarged_in_words
from ...export.export import is_of_timm
from ...export.model_files import FUNCTION, NORMALIZATIONS, normalization_option, update_description
from .coerce import DATABASE, MADE_BY, UnknownNormalization, crop_of, set_of, side_of, take_images, take_model
from .export import read_normalization
from .parameters import File, Layout
from .studies import run

if TYPE_CHECKING:
    from ...probes.images.image_set import ImageSet
    from ..study.file import Study
    from ..study.plan import Plan
    from .verdict_view import Look

MODELS, STUDY, REPORT, FLIPS = "models", "look.toml", "report.html", "flips.png"
"""The folder of a look's models, and its files."""
FEWEST_IMAGES = 20
"""The images that a first look takes at least, where there are as many: fewer have no interval of a bias."""
LAST_SECONDS = 8.0
"""The time for everything after the run: the measures, the pictures and the report."""
PATIENCE = 2
"""The factor by which the least that says something may take longer than the time that was given."""
SHARE = 0.7
"""The share of the rate of a network alone that a run has, which perturbs, decides and stores, too."""
TRIAL_IMAGES = 64
"""The images that normalizations are tried on."""


def look(
    model: Annotated[File | Any, typer.Argument()],
    images: Annotated[File | Any, typer.Argument()],
    labels: Annotated[File | Any | None, typer.Option("--labels", metavar="folders|CSV")] = None,
    *,
    out: File = Path("look"),
    minutes: Annotated[float, typer.Option(min=0)] = 1.0,
    name: str | None = None,
    architecture: str | None = None,
    normalization: Annotated[str | None, typer.Option(metavar="imagenet|none|MEAN:STD")] = None,
    image_size: Annotated[int | None, typer.Option(min=8)] = None,
    version: str | None = None,
    layout: Layout = "nhwc",
    allow_code: Annotated[bool, typer.Option("--allow-code")] = False,
    progress: Progress = silent,
) -> Look:
    """Find out which frequencies a model lives on: one call, about a minute.

    Exports the model, packs the images, chooses as many of them and of the published conditions as the time reaches
    for, runs them, and says what is determined, with intervals. Called again, it goes on with more images.

    Args:
        model: an ONNX file; a checkpoint's name; timm:NAME; a file of weights with its --architecture; an exported
            model's name. In Python also an exported `Model`, a network of torch in memory, or any function from an
            array of images to logits, with a `name` and a `version`.
        images: a folder, an archive, or a packed set. In Python also an array, (n, height, width, 3) or
            (n, 3, height, width), a list of PIL images, or a dataset of torch.
        labels: the classes: `folders` at the top, a CSV file with columns path, class, or `none`; in Python also a
            list. Without any, folders that are called by WordNet ids are, and those of a dataset; else answers are
            compared with those to the clean images.
        out: the folder for everything that it makes.
        minutes: the time that it may take.
        name: what the model is called; by default as its file, its architecture in timm, or its class.
        architecture: what the weights belong to: a torchvision or timm model, or module:callable('text', number=1).
        normalization: by name, or per RGB channel of images in [0, 1]: 0.5:0.5, or 127/255:128/255.
        image_size: side of the model's images, pixels; by default an ONNX file's, that of square arrays, or 224.
        version: of a function, another one whenever it changes; without a version no later call continues the look.
        layout: of a function's images: `nhwc`, (n, height, width, 3), or `nchw`.
        allow_code: run the Python files that a study file in the folder names; without it they are listed and not run.

    Raises UsageError in one line for whatever lacks; what was made until then stays.
    """
    from ...probes.images.image_sources import open_source
    from ...probes.images.pack import NO_LABELS
    from .verdict_view import read_look

    start, folder = time.monotonic(), Path(out)
    if isinstance(images, (str, PathLike)) and not Path(images).exists():
        open_source(Path(images))  # which says what is near
    _refuse_other_files(folder)
    if not allow_code:
        _refuse_code(folder / STUDY)
    set_of(images, folder)  # which refuses one that no look made
    if image_size is None and callable(model) and not is_of_timm(model):
        image_size = side_of(images)  # nothing else says what it takes
    options: dict[str, Any] = {"name": name, "architecture": architecture, "image_size": image_size}
    options |= {"version": version, "layout": layout}
    with _without_empty_folders(folder), TemporaryDirectory(prefix=".exporting-", dir=folder) as exports:
        draft = Path(exports)
        try:
            new = take_model(model, folder / MODELS, draft, normalization=normalization, **options)
        except UnknownNormalization as unknown:
            trial = take_model(model, draft, draft, normalization="none", **options)
            tried = _try_normalizations(trial, take_images(images, labels, trial, folder, progress))
            raise UsageError(f"{unknown}; {tried}") from None
        network = _keep_model(new, draft, folder)
        image_set = take_images(images, labels, network, folder, progress)
        count = image_set.info.count
        if count < 2:
            raise UsageError(f"{image_set.info.name} has one image, and one has no interval; give {FEWEST_IMAGES}")
        study, more = _choose(network, image_set, folder, start, 60 * minutes)
        summary = run(study, folder / DATABASE, progress=progress)
    is_file = isinstance(model, (str, PathLike)) and Path(model).is_file()
    options["normalization"] = normalization or (normalization_option(network.normalization) if is_file else None)
    options["labels"] = NO_LABELS if labels is None and network.classes != CLASSES else labels
    commands = _commands(model, images, options, network, image_set.folder, folder / STUDY)
    conditions = f"{min(study.limit or count, count):,} of {count:,} images under {summary.cells} conditions"
    enlarged = enlarged_in_words(image_set.info.name, image_set.own_cycles) if image_set.own_cycles else ""
    notes = [*filter(None, [conditions, more, enlarged])]
    return read_look(folder / STUDY, folder / DATABASE, image_set, notes, commands)


def _refuse_other_files(folder: Path) -> None:
    """UsageError where a look would write to files that no look made: its study file is the first one of them all."""
    if not (folder / STUDY).exists():
        for file in (folder / DATABASE, folder / REPORT, folder / FLIPS):
            if os.path.lexists(file):
                raise UsageError(f"{file} is there already, and no look made it; name another folder with --out")


def _refuse_code(file: Path) -> None:
    """UsageError, which lists them, where a study file that was found names Python files: they may be anyone's."""
    from ..study.file import Study

    if file.exists() and (programs := Study.read(file).programs):
        raise UsageError(
            f"{file} was found there, and runs code ({some_of(programs)}); read it, and give --allow-code to run it"
        )


@contextmanager
def _without_empty_folders(folder: Path) -> Iterator[None]:
    """Make a folder, and remove in the end what is empty of it and of the folders that had to be made."""
    new = [path for path in (folder / MODELS, folder, *folder.parents) if not path.exists()]
    with writing(folder, "name another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in new:
            with suppress(OSError):  # it is not empty, or was not made
                path.rmdir()


def _keep_model(model: Model, draft: Path, folder: Path) -> Model:
    """Move a model that was exported into a draft to those of a look; UsageError where that was at another so named."""
    from ...analysis.database.open import open_store

    if (folder / DATABASE).exists():
        with open_store(folder / DATABASE, read_only=True) as store:
            sha256s = store.frame("SELECT model_sha256 FROM checkpoint WHERE name = ?", [model.name])["model_sha256"]
        if len(sha256s) and model.sha256 not in sha256s:
            if model.architecture == FUNCTION:
                raise UsageError(
                    f"{folder} holds a look at another {model.name}; continue a look at a function with the version "
                    "that it was given, or name another folder with --out"
                )
            raise UsageError(
                f"{folder} holds a look at another {model.name}: its weights, code, normalization or image size "
                "differ, or another torch exported it; name another folder with --out"
            )
    if model.path.parent != draft:
        return model
    (folder / MODELS).mkdir(exist_ok=True)
    update_description(model, MADE_BY)
    for file in sorted(
        draft.iterdir(), key=lambda file: file.suffix != ".json"
    ):  # the mark first: after a kill it is there
        file.replace(folder / MODELS / file.name)
    return replace(model, path=folder / MODELS / model.path.name)


def _try_normalizations(model: Model, images: ImageSet) -> str:
    """The share of some images that each normalization has right, or how sure of its answers it is, in words."""
    import numpy as np

    from ...engine.backends.base import open_session, variant_of
    from ..study.compatibility import match_images

    images = match_images(images, [model])
    rows = np.arange(min(TRIAL_IMAGES, images.info.count))
    pixels = images.take(rows).astype(np.float32) / 255
    scores = dict[str, float]()
    with open_session(variant_of(model, "onnxruntime", "fp32"), len(rows), processors()) as session:
        for name in (*NORMALIZATIONS, "0.5:0.5"):
            mean, std = (np.array(numbers, np.float32).reshape(-1, 1, 1) for numbers in read_normalization(name))
            logits = session.infer(np.ascontiguousarray((pixels - mean) / std)).astype(np.float64)
            shares = np.exp(logits - logits.max(1, keepdims=True))
            sure = (shares.max(1) / shares.sum(1)).mean()
            scores[name] = sure if images.labels is None else (logits.argmax(1) == images.labels[rows]).mean()
    what = "mean probability of the answer" if images.labels is None else "share answered right"
    best = sorted(scores.items(), key=lambda entry: -entry[1])
    return f"{what} on {len(rows)} images: {', '.join(f'{name} {score:.2f}' for name, score in best)}"


def _choose(model: Model, images: ImageSet, folder: Path, start: float, seconds: float) -> tuple[Study, str]:
    """The study of as many images and conditions as there is time for, in look.toml, and what more there would be.

    An earlier look goes on with more images, and once all are done with the published grid. The `start` is one of the
    monotonic clock. Raises UsageError where an earlier look was at another model or other images, and where the
    seconds are too few.
    """
    from ..study.file import Study
    from ..study.plan import plan_study
    from ..study.resolve import resolve
    from ..study.study_template import FILTERS, GRID, study_text

    file, database, count = folder / STUDY, folder / DATABASE, images.info.count
    models, path = (Path(os.path.relpath(place, folder)).as_posix() for place in (model.path.parent, images.folder))
    text, done, share = study_text(STUDY, [model.name], [path], models, count), 0, SHARE
    if file.exists():
        text, earlier = file.read_text(encoding="utf-8"), Study.read(file)
        if (earlier.checkpoints, earlier.images) != ([model.name], [path]):
            before = f"{some_of(earlier.checkpoints)} on {some_of(earlier.images)}"
            raise UsageError(f"{folder} holds a look at {before}; name another folder with --out")
        if database.exists():
            done, share = min(earlier.limit or count, count), 1.0

    def plan_of(text: str, limit: int) -> Plan:
        study = Study(file.stem, **tomllib.loads(text) | {"limit": limit}, folder=folder)
        return plan_study(resolve(study, database), database)

    end, more = start + seconds - LAST_SECONDS, ""
    every = plan_of(text, count)
    rate = share * every.predictions / every.seconds if every.predictions else inf
    limit = int(min(count, done + rate * (end - time.monotonic()) / len(every.missing))) if every.missing else count
    if limit < count:
        fewest = done + 1 if done else min(FEWEST_IMAGES, count)
        needed = (fewest - done) * len(every.missing) / rate
        if limit < fewest and time.monotonic() + needed > start + PATIENCE * seconds:
            minutes = ceil((time.monotonic() - start + needed + LAST_SECONDS) / 6) / 10
            raise UsageError(
                f"{duration(max(seconds, 0))} are too short for {plural(fewest - done, 'image')} under "
                f"{len(every.missing)} conditions here; give --minutes {minutes:g}"
            )
        limit = max(limit, fewest)
        more = "call it again for more images"
    elif (grid := text.replace(FILTERS, GRID)) != text and model.image_size >= SIZE:
        needed = plan_of(grid, count).seconds / share
        if time.monotonic() + needed <= end:
            text = grid
        else:
            minutes = ceil((time.monotonic() - start + needed + LAST_SECONDS) / 60)
            more = f"with {plural(minutes, 'minute')} it has the published grid, too"
    with writing(file, "make its folder writable"):
        write_bytes(file, re.sub(r"(?m)^(# )?limit = \d+$", f"limit = {limit}", text, count=1).encode())
    return Study.read(file), more


def _commands(
    model: Any, images: Any, options: Mapping[str, Any], network: Model, packed: Path, file: Path
) -> list[str]:
    """The commands that do the same by hand; of what lies in memory, and was there before, there are none."""
    database, words = file.parent / DATABASE, list[list[object]]()

    def flags(*names: str) -> list[object]:
        given = ((f"--{name.replace('_', '-')}", options[name]) for name in names if options[name] is not None)
        return [word for pair in given for word in pair]

    if isinstance(model, (str, PathLike)) and network.path.parent == file.parent / MODELS:
        own = flags("name", "architecture", "normalization", "image_size") if Path(model).exists() else []
        words.append(["export", model, "--out", network.path.parent, *own])
    if isinstance(images, (str, PathLike)) and packed.parent == file.parent:
        crop = [] if crop_of(network) == PUBLISHED_CROP else crop_of(network).options.split()
        words.append(["images", "pack", images, "--out", packed, *flags("labels"), *crop, "--skip-broken"])
    words += [["run", file, "--db", database], ["analyze", "--db", database]]
    words += [["report", "--db", database, "--out", file.parent / REPORT], ["explore", "--db", database]]
    return [" ".join(map(quoted, ["bandlens", *line])) for line in words]
