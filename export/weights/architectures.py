"""An architecture by name: torchvision's, timm's, or a factory that can be imported; and timm's pretrained models."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import operator
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import floor
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import CheckpointError, ExportError, UnknownName, UsageError
from ...core.extras import naming_extras
from ...core.protocol import CLASSES
from ...core.records import INTERPOLATIONS, Crop
from ...core.untrusted import first_line
from ..model_files import Normalization
from ..onnx.outputs import GIVE_HEAD
from .study_checkpoints import Origin, checkpoints


def build(architecture: str, classes: int | None = None) -> nn.Module:
    """A network with its initial weights, in evaluation mode.

    `resnet18`                                     torchvision, or else timm
    `torchvision:resnet18`, `timm:resnet50d`       the one that is named
    `timm:resnet50d(num_classes=37)`               called with these literals
    `package.module:Class`                         called without arguments
    `package.module:Class.method('b0', classes=8)` called with these literals

    torchvision's and timm's have so many `classes`, unless the architecture says how many or this is None.
    Raises UnknownName for a name nobody knows, UsageError for a factory that cannot be imported or called.
    """
    # Whoever exports a network need not see what its constructor prints or warns about.
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        origin, colon, expression = architecture.partition(":")
        if "(" in origin or not colon:
            origin, expression = "", architecture
        # A tag of timm may begin with a digit, which no name in Python does.
        attribute, arguments, options = (
            _parse_call(architecture, expression) if origin not in HUBS or "(" in expression else (expression, [], {})
        )
        factory = _named(origin, attribute) if origin in HUBS else _imported(architecture, origin, attribute)
        if origin in HUBS and classes is not None:
            options = {"num_classes": classes} | options
        try:
            network = factory(*arguments, **options)
        # Whatever a stranger's constructor raises, it is about these arguments.
        except Exception as error:
            raise UsageError(
                f"architecture '{architecture}' cannot be made: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"architecture '{architecture}' makes a {type(network).__name__}, not a torch.nn.Module")
    return network.eval()


HUBS = ("", "torchvision", "timm")
"""The texts before the colon that stand for no module of the user's."""
Factory = Callable[..., Any]


def _named(origin: str, name: str) -> Factory:
    """The function of torchvision or timm that makes networks of this name and takes `num_classes`.

    Without an origin it is that of the first of them. UnknownName where none has it, UsageError where timm is missing.
    """
    from torchvision import models

    names: list[str] = []
    if origin != "timm":
        names += models.list_models(module=models)
        if name in names:
            return lambda *arguments, **options: models.get_model(name, *arguments, weights=None, **options)
    if origin == "timm" or (not origin and importlib.util.find_spec("timm") is not None):
        timm = _timm()
        if timm.is_model(name):
            return lambda *arguments, **options: timm.create_model(name, False, *arguments, **options)
        names += timm.list_models()
    hint = "" if origin else "or name a factory as module:callable"
    raise UnknownName(f"{origin} architecture".strip(), name, dict.fromkeys(names), hint)


def _imported(architecture: str, module: str, attribute: str) -> Factory:
    try:
        factory: Factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except ImportError as error:
        advice = "install its package, or put its folder on PYTHONPATH"
        if Path(f"{module.replace('.', '/')}.py").is_file():
            advice = "write PYTHONPATH=. before the command, as that file is here"
        raise UsageError(f"architecture '{architecture}': {error}; {advice}") from error
    except (AttributeError, ValueError) as error:
        raise UsageError(f"architecture '{architecture}': {error}; name a class or function of it") from error
    # A stranger's module may fail in any way as it is imported.
    except Exception as error:
        raise UsageError(
            f"architecture '{architecture}': {type(error).__name__}: {error}; mend module {module}, or name another"
        ) from error
    return factory


def _parse_call(architecture: str, expression: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Split `Class.method('b0', classes=8)` into "Class.method", ["b0"] and {"classes": 8}; nothing is evaluated."""
    try:
        node = ast.parse(expression, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        arguments = [ast.literal_eval(argument) for argument in call.args]
        options = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
        attribute = ast.unparse(call.func)
        if not all(part.isidentifier() for part in attribute.split(".")):
            raise ValueError(attribute)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"cannot read architecture '{architecture}'; write module:callable or module:callable('text', number=1)"
        ) from error
    return attribute, arguments, options


# timm's pretrained models by name: their weights on the Hugging Face hub, and how their images are made


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
    timm, name = _timm(), name.removeprefix("timm/")  # the owner on the hub, whom its pages put in front
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
    normalization, crop = preprocessing_of(config.to_dict(), full_name)
    return Pretrained(full_name, Origin("timm", config.hf_hub_id), normalization, crop, _class_names(config))


def preprocessing_of(configuration: dict[str, Any], name: str) -> tuple[Normalization, Crop]:
    """Normalization and crop of timm's configuration of a model; ExportError for images that image sets do not have."""
    data = _timm().data.resolve_data_config(pretrained_cfg=configuration)
    channels, height, width = data["input_size"]
    mode, interpolation = data["crop_mode"], data["interpolation"]
    if (channels, width) != (3, height) or mode not in ("center", "squash") or interpolation not in INTERPOLATIONS:
        images = f"{channels} x {height} x {width}, {mode}, {interpolation}"
        raise ExportError(f"{name} takes images that image sets do not have ({images}); take another model")
    crop = Crop(height, floor(height / data["crop_pct"]), interpolation=interpolation, squash=mode == "squash")
    mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (data["mean"], data["std"]))
    return (mean, std), crop


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
    with naming_extras("a model of timm"):
        import timm
    return timm
