"""An architecture by name, without weights: torchvision's, timm's, or a factory that can be imported."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import operator
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import UnknownName, UsageError


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
        try:
            import timm
        except ImportError as error:
            raise UsageError(f"architecture 'timm:{name}' needs timm; pip install 'bandlens[timm]'") from error
        if timm.is_model(name):
            return lambda *arguments, **options: timm.create_model(name, False, *arguments, **options)
        names += timm.list_models()
    hint = "" if origin else "or name a factory as module:callable"
    raise UnknownName(f"{origin} architecture".strip(), name, dict.fromkeys(names), hint)


def _imported(architecture: str, module: str, attribute: str) -> Factory:
    try:
        factory: Factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except ImportError as error:
        is_file = Path(f"{module.replace('.', '/')}.py").is_file()
        advice = "write PYTHONPATH=. before the command, as that file is here" if is_file else "is it on PYTHONPATH?"
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
