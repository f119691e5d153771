"""Image classifiers in folders that `save_pretrained` of transformers wrote: networks, and how their images are made.

A folder holds config.json, safetensors and, mostly, preprocessor_config.json. Nothing else is read or fetched, and no
code of a folder is run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling

from ...core.errors import CheckpointError, ExportError, UsageError, some_of
from ...core.extras import naming_extras
from ...core.protocol import SIZE
from ...core.records import INTERPOLATIONS, Crop
from ...core.untrusted import first_line, parse_json, read_text, words_of
from ..class_names import MOST_NAMES_BYTES
from ..model_files import MOST_FEATURES, MOST_PIXELS, NORMALIZATIONS, Normalization
from ..onnx.outputs import GIVE_HEAD, Features
from ..reference_images import PHOTOGRAPH_FOLDER

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

CONFIG, PREPROCESSING = "config.json", "preprocessor_config.json"
POOLER = "pooler."
"""The beginning of the names of tensors that no classifier has, and its network by itself wants."""
PHOTOGRAPH = "chelsea.jpg"
"""The photograph that a folder's own preprocessing is compared on; it is not square."""
MOST_LAYERS = 1000
"""The largest number of layers that a network may have, those of all its stages together."""
LIMITS = {
    r".*(layers|depths?|blocks).*": MOST_LAYERS,
    r"image_size|crop_size|size|height|width|(short|long)est_edge": MOST_PIXELS,
    r".*(labels|classes|hidden|channels|features|filters|dim|d_model|size|vocab|position|heads|ratio).*": MOST_FEATURES,
}
"""Names of settings -> the largest whole number that they may have; others, such as a seed, have no limit."""
SHARES = (1.0, 224 / 256)
"""Shares of the shorter side that a crop takes, where a folder states none: in transformers they lie in the code."""
NEAREST = 2.0
"""The largest mean difference of two preprocessings that are the same but for rounding, in grey levels of 255."""


def load_classifier(folder: Path, features: Features | None = None) -> tuple[nn.Module, list[Path], list[str]]:
    """The network of a folder, a classifier or one of `features`, its files of weights, and the keys without a use.

    Every tensor of the network must be there, but those of its pooler where a `pool` does without. Raises UsageError
    for a folder of something else, CheckpointError where weights are missing, and ExportError where transformers cannot
    load it.
    """
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"{folder} has no {CONFIG}; give a folder that save_pretrained of transformers wrote, or a file of weights "
            "(--out is the folder of exported models)"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no safetensors; save it again with save_pretrained of transformers")
    _check_numbers(folder / CONFIG)
    loading: dict[str, Any]
    with _transformers(folder) as transformers:
        kind = transformers.AutoModel if features else transformers.AutoModelForImageClassification
        network, loading = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            # Another implementation may be named in the folder, and be fetched from a hub.
            attn_implementation="eager",
            output_loading_info=True,
        )
    # transformers draws weights that it does not find.
    pools = features is not None and features.pool is not None
    missing = sorted(key for key in loading["missing_keys"] if not (pools and key.startswith(POOLER)))
    if missing:
        advice = f"save the classifier with its head, or {GIVE_HEAD}"
        if features and all(key.startswith(POOLER) for key in missing):
            advice = "say how its tokens are pooled: `pool` is token or mean"
        elif features:
            advice = "save the network with all its weights"
        lacks = f"{len(missing)} tensors of a {type(network).__name__} ({some_of(missing)})"
        raise CheckpointError(f"{folder} lacks {lacks}; {advice}")
    return network.eval(), files, sorted(loading["unexpected_keys"])


def _check_numbers(file: Path) -> None:
    """ExportError where settings of a folder are numbers of labels, layers or pixels that no classifier has."""
    try:
        waiting: list[tuple[str, Any]] = [("", parse_json(read_text(file, MOST_NAMES_BYTES)))]
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} cannot be read ({words_of(error)}); save it again") from error
    while waiting:
        name, value = waiting.pop()
        limit = next((limit for pattern, limit in LIMITS.items() if re.fullmatch(pattern, name)), None)
        if isinstance(value, Mapping):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, entry) for entry in value]
            if limit == MOST_LAYERS:
                value = sum(entry for entry in value if isinstance(entry, int))
        if isinstance(value, int) and limit is not None and value > limit:
            raise ExportError(f"{file}: {name} is {value:,}, and {limit:,} is the most; give another folder")


def image_size_of(config: Any) -> int:
    """The width and height that a network's configuration states, or 224; ExportError where these are two."""
    size = getattr(config, "image_size", None) or SIZE
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) > 1:
        raise ExportError(
            f"the network takes images of {' x '.join(map(str, sides))} pixels, and only square ones can be measured; "
            "resize square images inside the network, and export it with bandlens.export_model"
        )
    return int(sides[0])


def labels_of(config: Any) -> dict[int, str]:
    """Number -> name of the classes that a network's configuration states.

    There are none for ImageNet-1k, whose classes image sets know by shorter names and by WordNet ids.
    """
    from torchvision.models import ResNet50_Weights

    labels = {number: name for number, name in config.id2label.items() if isinstance(name, str)}
    categories = ResNet50_Weights.DEFAULT.meta["categories"]
    matches = sum(labels.get(number, "").partition(",")[0] == name for number, name in enumerate(categories))
    return {} if 2 * matches > len(categories) else labels


def read_preprocessing(folder: Path) -> tuple[Normalization, Crop]:
    """Normalization and crop of a folder's images, which give what its own processor makes of a photograph.

    Raises UsageError where the folder does not say, and ExportError for images that image sets do not have.
    """
    advice = "say it with --normalization and --image-size"
    if not (folder / PREPROCESSING).is_file():
        raise UsageError(f"{folder} has no {PREPROCESSING}, which says how images are made; {advice}")
    _check_numbers(folder / PREPROCESSING)
    with _transformers(folder) as transformers, Image.open(PHOTOGRAPH_FOLDER / PHOTOGRAPH) as file:
        photograph = file.convert("RGB")
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        expected = processor(photograph, return_tensors="np")["pixel_values"][0]
        settings: dict[str, Any] = processor.to_dict()
    normalization = NORMALIZATIONS["none"]
    if settings.get("do_normalize"):
        mean, std = (np.broadcast_to(settings[key], 3).tolist() for key in ("image_mean", "image_std"))
        normalization = ((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
    centre, scale = (np.array(channels).reshape(3, 1, 1) for channels in normalization)
    for crop in _crops(settings, expected.shape):
        pixels = (expected * scale + centre) * 255
        if np.abs(pixels - _cropped(photograph, crop)).mean() < NEAREST:
            return normalization, crop
    images = f"{settings.get('image_processor_type')} to {' x '.join(map(str, expected.shape))}"
    raise ExportError(f"{folder} takes images that image sets do not have ({images}); {advice}")


def _crops(settings: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[Crop]:
    """The crops that a processor's settings may mean, for images of this shape: its class decides between them."""
    interpolation = Resampling(settings.get("resample") or Resampling.BILINEAR).name.lower()
    if shape != (3, shape[-1], shape[-1]) or interpolation not in INTERPOLATIONS:
        return
    size = settings.get("size") or {}
    sides = [side for side in (size.values() if isinstance(size, Mapping) else [size]) if side]
    shares = (settings["crop_pct"],) if settings.get("crop_pct") else SHARES
    for resize in sorted({*sides, *(int(side / share) for side in sides for share in shares)}):
        for squash in (True, False):
            if resize >= shape[-1]:
                yield Crop(shape[-1], resize, interpolation=interpolation, squash=squash)


def _cropped(photograph: Image.Image, crop: Crop) -> NDArray[np.float64]:
    """(3, size, size) in [0, 255]."""
    shorter = min(photograph.size)
    width, height = (crop.resize if crop.squash else crop.resize * side // shorter for side in photograph.size)
    resized = photograph.resize((width, height), Resampling[crop.interpolation.upper()])
    x, y = (round((side - crop.size) / 2) for side in (width, height))
    pixels = np.asarray(resized.crop((x, y, x + crop.size, y + crop.size)), np.float64)
    return pixels.transpose(2, 0, 1)


@contextmanager
def _transformers(folder: Path) -> Iterator[Any]:
    """The library, which says nothing in the block; what fails there is ExportError about the folder."""
    with naming_extras(str(folder)):
        transformers: Any = import_module("transformers")
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield transformers
    # Configurations are a stranger's, and every class of transformers fails in a way of its own.
    except Exception as error:
        raise ExportError(
            f"transformers cannot load {folder}: {first_line(error)}; load it yourself, and export the network with "
            "bandlens.export_model"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
