"""The model and the images that `look` and a release are given, in any form, exported and packed where they are not."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...core.errors import BandlensError, UsageError, did_you_mean, plural
from ...core.files import sha256_of
from ...core.jobs import Progress, silent
from ...core.log import log
from ...core.protocol import CLASSES, SIZE
from ...core.records import PUBLISHED_CROP, Crop, Model
from ...core.untrusted import parse_json, read_text
from ...export.export import TIMM, ExportOptions, channels_of, export, is_of_timm
from ...export.model_files import ENDINGS, load_model, model_names, normalization_name
from ...export.weights.study_checkpoints import checkpoints
from ...probes.images.storage import ABOUT
from .export import name_sources, read_normalization
from .models import export_function
from .parameters import Layout

if TYPE_CHECKING:
    from ...probes.images.image_set import ImageSet

DATABASE = "results.duckdb"
"""The file of a look's results in its folder."""
MOST_IMAGES = 2_000
"""The most images that are packed; they are decoded in a few seconds, and their intervals are 0.02 wide each way."""
MADE_BY = {"made_by": "bandlens look"}
"""The mark of an image set or a model that a look made, in its description: a look replaces nothing else."""
MODEL_ADVICE = "give an ONNX file, a checkpoint's name, timm:NAME, or weights with their --architecture"


class UnknownNormalization(UsageError):
    """Nobody has said how the images of a model are normalized."""


def take_model(
    model: Any,
    models: Path,
    out: Path | None = None,
    *,
    name: str | None = None,
    architecture: str | None = None,
    normalization: str | None = None,
    image_size: int | None = None,
    version: str | None = None,
    layout: Layout = "nhwc",
) -> Model:
    """The model that `look` takes, exported unless it is in the folder `models`, or elsewhere.

    An export goes into `out`, by default `models`. UsageError where it would later take the place of a model in
    `models` that no look made.
    """
    if isinstance(model, Model):
        return model
    torch, channels = sys.modules.get("torch"), None
    model = getattr(model, "_orig_mod", model)  # Exported compiled, it took two minutes.
    if normalization is not None:
        mean, std = read_normalization(normalization)
        channels = channels_of("mean", mean), channels_of("std", std)
    if isinstance(model, (str, PathLike)):
        file = Path(model)
        if not file.exists() and architecture is None:
            return _named_model(str(model), models, has_options=(name, normalization) != (None, None))
        if file.is_dir() and not (file / "config.json").exists():
            files = sorted(path for path in file.iterdir() if path.suffix in (".onnx", ".pth", ".pt"))
            inside = f"give a file, such as {files[0]}" if files else MODEL_ADVICE
            raise UsageError(f"{file} is a folder without config.json; {inside}")
        title = next(iter(name_sources([file], name)))
        with suppress(BandlensError):  # which a file raises that was not exported
            exported = load_model(file.parent, file.stem)
            if channels is not None:
                log.warning(f"bandlens: warning: {file} was exported with its normalization, which is taken")
            return exported
        if file.is_file() and title in model_names(models):
            earlier = load_model(models, title)
            is_same = channels is None or earlier.normalization == normalization_name(channels)
            if is_same and earlier.weights_sha256 == sha256_of(file):
                return earlier
        knows_normalization = file.is_dir()
    elif torch is not None and isinstance(model, torch.nn.Module):
        knows_normalization = is_of_timm(model)
        own_name = getattr(model, "pretrained_cfg", {}).get("architecture") if knows_normalization else None
        title = name or own_name or type(model).__name__
    elif isinstance(model, type):
        raise UsageError(f"model is the class {model.__name__}; give {model.__name__}(), an instance")
    elif not callable(model):
        raise UsageError(f"model is of {type(model).__name__}; give a path, a name, a network or a function")
    elif channels is not None:
        raise UsageError("a function gets images in [0, 1]; leave out --normalization, and normalize inside")
    else:
        title = name or str(getattr(model, "__name__", "function")).strip("<>")  # as of <lambda>
        _refuse_other_model(models, title, out)
        return export_function(model, title, version, layout=layout, image_size=image_size or SIZE, out=out or models)
    if channels is None and not knows_normalization:
        raise UnknownNormalization(
            f"{title} does not say how its images are normalized; give --normalization imagenet, none, or MEAN:STD"
        )
    _refuse_other_model(models, title, out)
    options = ExportOptions(
        out or models,
        title,
        architecture=architecture,
        mean=channels and channels[0],
        std=channels and channels[1],
        image_size=image_size,
    )
    return export(model, options)


def _named_model(word: str, models: Path, has_options: bool) -> Model:
    """One of the 48 or of timm, which is exported unless it is there; or a model that was exported before."""
    published, exported = [checkpoint.name for checkpoint in checkpoints()], model_names(None)
    name, is_published = word.removeprefix(TIMM), word in published or word.startswith(TIMM)
    if not is_published and word not in (*exported, *model_names(models)):
        near = did_you_mean(word, [*published, *exported, *map(str, Path(word).parent.glob("*"))])
        raise UsageError(f"there is no file {word}, and no model of this name{near}; {MODEL_ADVICE}")
    if has_options:
        raise UsageError(f"{word} has its own name and normalization; leave out --name and --normalization")
    if name in model_names(models):
        return load_model(models, name)
    return export(word, ExportOptions(models)) if is_published else load_model(None, word)


def _refuse_other_model(models: Path, name: str, out: Path | None) -> None:
    """UsageError where a model that is exported into `out` would replace one in `models` that no look made."""
    files = [models / f"{name}{ending}" for ending in (".json", *ENDINGS)]
    if out not in (None, models) and not _made_by_look(files[0]):
        for file in files:
            if os.path.lexists(file):
                raise UsageError(
                    f"{file} is there already, and no look made it; name another folder with --out, or the model with "
                    "--name"
                )


def _made_by_look(description: Path) -> bool:
    """Whether the description of a model or an image set has the mark of a look."""
    try:
        return dict(parse_json(read_text(description))).items() >= MADE_BY.items()
    except (OSError, ValueError, TypeError):  # there is none, or it is something else
        return False


def set_of(images: Any, folder: Path) -> Path:
    """The place of the image set of some images: themselves if they are packed, or else a folder in `folder`.

    UsageError where something is in that place that no look made.
    """
    if _is_packed(images):
        return Path(images)
    name = Path(images).absolute().name.partition(".")[0] if isinstance(images, (str, PathLike)) else "images"
    out = folder / f"{name}.set"
    if os.path.lexists(out) and not _made_by_look(out / ABOUT):
        raise UsageError(
            f"{out} is there already, and no look made it; give it as the images, or name another folder with --out"
        )
    return out


def _is_packed(images: Any) -> bool:
    return isinstance(images, (str, PathLike)) and (Path(images) / ABOUT).is_file()


def take_images(images: Any, labels: Any, model: Model, folder: Path, progress: Progress = silent) -> ImageSet:
    """The image set that `look` takes: a packed one, or one that is packed anew into the folder, as the model takes it.

    A set that lies there is replaced where its images differ; UsageError where a look was at others alone.
    """
    import numpy as np

    from ...probes.images.image_set import open_image_set
    from ...probes.images.image_sources import open_source
    from ...probes.images.in_memory import pictures_of
    from ...probes.images.pack import NO_LABELS, pack, pack_arrays
    from ...probes.images.pack_options import Contents, Draw, How
    from ...probes.images.storage import changed_folder, read_description, write_description
    from ..study.compatibility import match_images
    from ..study.label_checks import doubt_numbers

    is_path, out = isinstance(images, (str, PathLike)), set_of(images, folder)
    if _is_packed(images):
        if labels is not None:
            raise UsageError(f"{images} is packed, and has the labels that it was packed with; leave out --labels")
        return open_image_set(Path(images))
    is_none = isinstance(labels, str) and Path(labels) == NO_LABELS
    if labels is not None and not is_none and is_path != isinstance(labels, (str, PathLike)):
        raise UsageError("labels of a folder are 'folders', those at its top, or a CSV file; of arrays, a list")
    if labels is None and model.classes != CLASSES:  # then folders that are called as classes of ImageNet say nothing
        labels = NO_LABELS if is_path else None
    name = out.stem
    crop, size = crop_of(model), model.image_size
    if model.crop is None and side_of(images) == size:
        crop = Crop(size, size)  # they are cropped already
    with TemporaryDirectory(prefix=".packing-", dir=folder) as draft:
        new = Path(draft) / out.name
        how = How(is_path, progress=progress, say=lambda text: log.info(text.replace(str(new), str(out))))
        if is_path:
            count = len(open_source(Path(images)).paths)
            if count > MOST_IMAGES:
                log.info(f"{images}: {MOST_IMAGES:,} of {count:,} images are taken, evenly from all classes")
            contents = Contents(name, draw=Draw(min(MOST_IMAGES, count)))
            packed = pack(images, new, crop=crop, labels=labels, contents=contents, how=how)
            if labels is None and packed.info.labelled:
                log.info(f"{images}: its folders are WordNet ids, and so its labels; --labels none takes none")
        else:
            pictures, classes, names = pictures_of(images, labels, MOST_IMAGES)
            packed = pack_arrays(
                pictures, new, crop=crop, labels=classes, class_names=names, contents=Contents(name), how=how
            )
        if packed.class_names and (doubts := doubt_numbers([model], [match_images(packed, [model])])):
            raise UsageError(f"{doubts[0]}; or measure agreement: --labels none")
        earlier = open_image_set(out) if out.exists() else packed
        if (folder / DATABASE).exists() and not np.isin(packed.keys, earlier.keys).any():
            raise UsageError(f"{folder} holds a look at other images called {name}; name another folder with --out")
        write_description(new, read_description(new) | MADE_BY)
        if not out.exists():
            new.rename(out)
        elif (earlier.info.digest, earlier.class_names) != (packed.info.digest, packed.class_names):
            with changed_folder(out) as changed:
                for file in new.iterdir():
                    file.rename(changed / file.name)
    if packed.skipped:
        log.info(
            f"{images}: {plural(len(packed.skipped), 'broken image')} left out, such as {next(iter(packed.skipped))}"
        )
    return open_image_set(out)


def side_of(images: Any) -> int | None:
    """The side of square pictures in memory, pixels; None for all else, and for large ones of PIL: to be resized."""
    from ...probes.images.in_memory import pictures_of

    if isinstance(images, (str, PathLike)):
        return None
    sides = {side for _, pixels in pictures_of(images, "none", 2)[0] for side in pixels.shape[:2]}
    picture = images[0][0] if isinstance(images[0], tuple) else images[0]
    is_photograph = hasattr(picture, "convert") and max(sides) > SIZE
    return sides.pop() if len(sides) == 1 and not is_photograph else None


def crop_of(model: Model) -> Crop:
    """The crop of a model that has none of its own: the published one, at its size."""
    return model.crop or Crop(model.image_size, round(model.image_size * PUBLISHED_CROP.resize / SIZE))
