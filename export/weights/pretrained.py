"""timm's pretrained models by name: their weights on the Hugging Face hub, and how their images are made."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import CheckpointError, ExportError, UnknownName, UsageError
from ...core.protocol import CLASSES
from ...core.records import INTERPOLATIONS, Crop
from ...core.untrusted import first_line
from ..model_files import Normalization
from ..onnx.outputs import GIVE_HEAD
from .study_checkpoints import Origin, checkpoints


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model of timm with weights."""

    name: str
    """The full name, with the tag of the weights, as in `resnet50.a1_in1k`."""
    source: Origin
    normalization: Normalization
    crop: Crop
    class_names: list[str] | None
    """The names of its classes in their order; None for those of ImageNet-1k, and where timm has none."""


LARGEST_EMBEDDING = 2048
"""The largest number of outputs that are no classes where timm knows no names of them: those of towers such as CLIP's.

Its classifiers of classes without names have 19,168 and 115,217."""


def pretrained(name: str, headed: bool = False) -> Pretrained:
    """A pretrained model as timm describes it, at the size that it was trained on; nothing is fetched.

    A name without a tag has timm's own choice of weights. Raises UnknownName, UsageError for one of the 48, and
    ExportError for a model of images that image sets do not have, or without classes unless it is to be `headed`.
    """
    timm = _timm()
    from timm.data.config import resolve_data_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        has_weights = timm.models.is_model_pretrained(name)
    if not has_weights:
        raise UnknownName("pretrained model of timm", name, timm.list_pretrained(), "timm.list_pretrained() has all")
    config = timm.models.get_pretrained_cfg(name)
    full_name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    if not headed and any(full_name == published.name for published in checkpoints()):
        raise UsageError(
            f"{full_name} is one of the 48 checkpoints, whose images are the study's; `bandlens export {full_name}`"
        )
    has_names = config.label_names or timm.data.infer_imagenet_subset(config.to_dict()) is not None
    if not headed and (not config.num_classes or (not has_names and config.num_classes <= LARGEST_EMBEDDING)):
        raise ExportError(f"{full_name} is a backbone without classes; {GIVE_HEAD}")
    if not config.hf_hub_id:
        raise ExportError(
            f"the weights of {full_name} are not on the Hugging Face hub; download them, and export the file"
        )
    data: dict[str, Any] = resolve_data_config(pretrained_cfg=config.to_dict())  # type: ignore[no-untyped-call]
    channels, height, width = data["input_size"]
    mode, interpolation = data["crop_mode"], data["interpolation"]
    if (channels, width) != (3, height) or mode not in ("center", "squash") or interpolation not in INTERPOLATIONS:
        images = f"{channels} x {height} x {width}, {mode}, {interpolation}"
        raise ExportError(f"{full_name} takes images that image sets do not have ({images}); take another model")
    crop = Crop(height, floor(height / data["crop_pct"]), interpolation=interpolation, squash=mode == "squash")
    mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (data["mean"], data["std"]))
    return Pretrained(full_name, Origin("timm", config.hf_hub_id), (mean, std), crop, _class_names(config))


def _class_names(config: Any) -> list[str] | None:
    """The names in timm's description of a model, or the WordNet ids of a larger ImageNet."""
    data = _timm().data
    subset = data.infer_imagenet_subset(config.to_dict())
    if config.label_names or subset is None:
        return list(config.label_names) if config.label_names else None
    return None if config.num_classes == CLASSES else list(data.ImageNetInfo(subset).label_names())


def load_pretrained(name: str, file: Path) -> nn.Module:
    """The network of timm with the weights of the file, in evaluation mode; CheckpointError where they do not fit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Weights that once needed a reader of their own (custom_load) lie on the hub in timm's format today.
            overlay = {"file": str(file), "custom_load": False}
            network: nn.Module = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    # safetensors, torch and timm each fail in a way of their own.
    except Exception as error:
        raise CheckpointError(
            f"{file} does not fit {name}: {first_line(error)}; delete it to fetch it again"
        ) from error
    return network.eval()


def pool_pretrained(network: nn.Module, pool: str | None, name: str) -> nn.Module:
    """The network of timm without its classifier: it gives the features that the classifier would take.

    With a `pool` these are pooled so instead of as its head pools them; UsageError where the network cannot.
    """
    try:
        network.reset_classifier(0, *([] if pool is None else [{"mean": "avg"}.get(pool, pool)]))  # type: ignore[operator]
    # Each network of timm has a check of its own.
    except Exception as error:
        raise UsageError(f"{name} has no pooling by {pool} ({first_line(error)}); leave out `pool`") from error
    return network.eval()


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UsageError("models of timm need timm; pip install 'bandlens[timm]'") from error
    return timm
