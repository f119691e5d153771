"""Load image classifiers, and their preprocessing, from folders saved by `save_pretrained` of transformers.

A folder contains config.json, safetensors files and usually preprocessor_config.json. No other files are read or
downloaded, and no code in the folder is executed.
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
"""Prefix of the tensors of a pooler, which the base network expects but classifiers do not have."""
PHOTOGRAPH = "chelsea.jpg"
"""Photograph on which preprocessing is compared with that of the folder. It is not square."""
MOST_LAYERS = 1000
"""Maximum number of layers of a network, summed over its stages."""
LIMITS = {
    r".*(layers|depths?|blocks).*": MOST_LAYERS,
    r"image_size|crop_size|size|height|width|(short|long)est_edge": MOST_PIXELS,
    r".*(labels|classes|hidden|channels|features|filters|dim|d_model|size|vocab|position|heads|ratio).*": MOST_FEATURES,
}
"""Regular expression for names of settings -> maximum integer. Other settings, such as a seed, have no limit."""
SHARES = (1.0, 224 / 256)
"""Proportions of the shorter side covered by the crop, to try if the folder does not specify one.

In transformers, they are part of the code.
"""
NEAREST = 2.0
"""Maximum mean difference, in gray levels of 255, of two preprocessings that are equal except for rounding."""


def load_classifier(folder: Path, features: Features | None = None) -> tuple[nn.Module, list[Path], list[str]]:
    """Load the network in a folder.

    Args:
        folder: The folder.
        features: Options of the features if a feature extractor is requested; None for a classifier.

    Returns:
        The network, its weights files, and the keys that were not used.

    Raises:
        UsageError: The folder was not saved by transformers.
        CheckpointError: Tensors of the network are missing, except those of a pooler that `features` replaces.
        ExportError: transformers cannot load the network.
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
            # The folder could name another implementation, which would be downloaded from a hub.
            attn_implementation="eager",
            output_loading_info=True,
        )
    # transformers initializes missing weights at random instead of raising an exception.
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
    """Check that the numbers of labels, layers, pixels and so on in a JSON file are plausible.

    Raises:
        ExportError: The file cannot be read, or a number exceeds its limit.
    """
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
    """Return the image size in a network's configuration, by default 224 pixels.

    Raises:
        ExportError: The images are not square.
    """
    size = getattr(config, "image_size", None) or SIZE
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) > 1:
        raise ExportError(
            f"the network takes images of {' x '.join(map(str, sides))} pixels, and only square ones can be measured; "
            "resize square images inside the network, and export it with bandlens.export_model"
        )
    return int(sides[0])


def labels_of(config: Any) -> dict[int, str]:
    """Return the class names in a network's configuration, by class number.

    For ImageNet-1k, the result is empty, because image sets identify its classes by shorter names and by WordNet ids.
    """
    from torchvision.models import ResNet50_Weights

    labels = {number: name for number, name in config.id2label.items() if isinstance(name, str)}
    categories = ResNet50_Weights.DEFAULT.meta["categories"]
    matches = sum(labels.get(number, "").partition(",")[0] == name for number, name in enumerate(categories))
    return {} if 2 * matches > len(categories) else labels


def read_preprocessing(folder: Path) -> tuple[Normalization, Crop]:
    """Return the normalization and the crop of a folder's preprocessing.

    The result is checked by comparing it with the folder's own image processor on a photograph.

    Raises:
        UsageError: The folder does not specify the preprocessing.
        ExportError: Image sets do not support the preprocessing.
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
    """Yield the crops that a processor's settings may mean for images of this shape.

    The same settings mean different crops in different classes of processors.
    """
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
    """Apply a crop. Return (3, size, size) pixels in [0, 255]."""
    shorter = min(photograph.size)
    width, height = (crop.resize if crop.squash else crop.resize * side // shorter for side in photograph.size)
    resized = photograph.resize((width, height), Resampling[crop.interpolation.upper()])
    x, y = (round((side - crop.size) / 2) for side in (width, height))
    pixels = np.asarray(resized.crop((x, y, x + crop.size, y + crop.size)), np.float64)
    return pixels.transpose(2, 0, 1)


@contextmanager
def _transformers(folder: Path) -> Iterator[Any]:
    """Yield the library transformers, with its messages suppressed in the block.

    Raises:
        ExportError: The block raised an exception.
    """
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
    # Configurations are untrusted, and the classes of transformers raise many types of exceptions.
    except Exception as error:
        raise ExportError(
            f"transformers cannot load {folder}: {first_line(error)}; load it yourself, and export the network with "
            "bandlens.export_model"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
