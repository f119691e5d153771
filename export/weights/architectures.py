"""Build networks by name, and describe pretrained timm models.

A name refers to a torchvision or timm model, or to an importable factory.
"""

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
    """Build a network with its initial weights, in evaluation mode.

    Supported architectures:

        `resnet18`                                     torchvision model, or else timm model
        `torchvision:resnet18`, `timm:resnet50d`       model of the named library
        `timm:resnet50d(num_classes=37)`               called with these literals
        `package.module:Class`                         called without arguments
        `package.module:Class.method('b0', classes=8)` called with these literals

    Args:
        architecture: Architecture in one of these forms.
        classes: Number of classes of a torchvision or timm model, unless the architecture specifies it. None for the
            default of the model.

    Returns:
        The network.

    Raises:
        UnknownName: No library has a model of this name.
        UsageError: The factory cannot be imported or called, or does not return a module.
    """
    # Hide output and warnings of constructors, which do not concern the user.
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        origin, colon, expression = architecture.partition(":")
        if "(" in origin or not colon:
            origin, expression = "", architecture
        # Do not parse plain timm names as Python: a tag may start with a digit, unlike a Python identifier.
        attribute, arguments, options = (
            _parse_call(architecture, expression) if origin not in HUBS or "(" in expression else (expression, [], {})
        )
        factory = _named(origin, attribute) if origin in HUBS else _imported(architecture, origin, attribute)
        if origin in HUBS and classes is not None:
            options = {"num_classes": classes} | options
        try:
            network = factory(*arguments, **options)
        # Third-party constructors can raise anything. The cause is most likely the arguments.
        except Exception as error:
            raise UsageError(
                f"architecture '{architecture}' cannot be made: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"architecture '{architecture}' makes a {type(network).__name__}, not a torch.nn.Module")
    return network.eval()


HUBS = ("", "torchvision", "timm")
"""Prefixes before the colon that do not name a Python module of the user."""
Factory = Callable[..., Any]


def _named(origin: str, name: str) -> Factory:
    """Return a function that builds the torchvision or timm model of this name and accepts `num_classes`.

    If `origin` is empty, torchvision is searched before timm.

    Raises:
        UnknownName: There is no such model.
        UsageError: timm is not installed.
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
    # Importing a third-party module can raise anything.
    except Exception as error:
        raise UsageError(
            f"architecture '{architecture}': {type(error).__name__}: {error}; mend module {module}, or name another"
        ) from error
    return factory


def _parse_call(architecture: str, expression: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Split `Class.method('b0', classes=8)` into "Class.method", ["b0"] and {"classes": 8}.

    Only literals are evaluated.
    """
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


# Pretrained timm models: their weights on the Hugging Face Hub, and the preprocessing of images


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A pretrained timm model."""

    name: str
    """Full name including the tag of the weights, as in `resnet50.a1_in1k`."""
    source: Origin
    normalization: Normalization
    crop: Crop
    class_names: list[str] | None
    """Class names in order; None for ImageNet-1k classes, or if timm has no names."""


LARGEST_EMBEDDING = 2048
"""Maximum number of outputs that are assumed to be an embedding if timm has no class names for them.

Such outputs belong, for example, to the image towers of CLIP models. timm's classifiers without class names have 19,168
and 115,217 outputs.
"""


def pretrained(name: str, headed: bool = False) -> Pretrained:
    """Return the description of a pretrained timm model, without downloading it.

    Args:
        name: Name of the model. Without a tag, timm's default weights are selected.
        headed: Whether a head will be appended, so that the model need not have classes.

    Returns:
        The description, with the image size on which the model was trained.

    Raises:
        UnknownName: timm has no such pretrained model.
        UsageError: The model is one of the 48 checkpoints, and `headed` is false.
        ExportError: Image sets do not support the preprocessing of the model, the model has no classes and `headed` is
            false, or the weights are not on the Hugging Face Hub.
    """
    timm, name = _timm(), name.removeprefix("timm/")  # remove the owner, which pages of the Hub prepend
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
    """Return the normalization and the crop in a timm configuration.

    Args:
        configuration: The `pretrained_cfg` of a model.
        name: Name of the model, for error messages.

    Raises:
        ExportError: Image sets do not support the preprocessing.
    """
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
    """Return the class names in timm's configuration, or the WordNet ids of a variant of ImageNet.

    Return None for ImageNet-1k and for models without names.
    """
    data = _timm().data
    subset = data.infer_imagenet_subset(config.to_dict())
    if config.label_names or subset is None:
        return list(config.label_names) if config.label_names else None
    return None if config.num_classes == CLASSES else list(data.ImageNetInfo(subset).label_names())


def load_pretrained(name: str, file: Path) -> nn.Module:
    """Build a timm model and load its weights from a file. The network is in evaluation mode.

    Raises:
        CheckpointError: The weights do not fit the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Some configurations request a custom loader (custom_load). Their weights on the Hub are in timm's format.
            overlay = {"file": str(file), "custom_load": False}
            network: nn.Module = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    # safetensors, torch and timm raise different types of exceptions.
    except Exception as error:
        raise CheckpointError(
            f"{file} does not fit {name}: {first_line(error)}; delete it to fetch it again"
        ) from error
    return network.eval()


def pool_pretrained(network: nn.Module, pool: str | None, name: str) -> nn.Module:
    """Remove the classifier of a timm model, so that it returns the features that the classifier received.

    Args:
        network: The model, which is modified.
        pool: Pooling of the features; None for the pooling of the model's head.
        name: Name of the model, for error messages.

    Raises:
        UsageError: The model does not support this pooling.
    """
    try:
        network.reset_classifier(0, *([] if pool is None else [{"mean": "avg"}.get(pool, pool)]))  # type: ignore[operator]
    # timm models raise different types of exceptions for invalid pooling.
    except Exception as error:
        raise UsageError(f"{name} has no pooling by {pool} ({first_line(error)}); leave out `pool`") from error
    return network.eval()


def _timm() -> Any:
    with naming_extras("a model of timm"):
        import timm
    return timm
