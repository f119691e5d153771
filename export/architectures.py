"""An architecture by name, without weights: torchvision's, timm's, or a factory that can be imported."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import operator
import warnings
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from torch import nn

from ..errors import UnknownName, UsageError


def build(architecture: str) -> nn.Module:
    """A network with its initial weights, in evaluation mode.

    `resnet50`                                     torchvision, or else timm
    `timm:resnet50d`                               timm
    `package.module:Class`                         called without arguments
    `package.module:Class.method('b0', classes=8)` called with these literals

    Raises UnknownName for a name nobody knows, UsageError for a factory that cannot be imported or called.
    """
    # What a constructor prints or warns about is no concern of who exports it.
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        origin, colon, rest = architecture.partition(":")
        if not colon:
            network = _named(architecture)
        elif origin == "timm":
            network = _timm(rest)
        else:
            network = _factory(architecture, origin, rest)
    if not isinstance(network, nn.Module):
        raise UsageError(f"architecture '{architecture}' makes a {type(network).__name__}, not a torch.nn.Module")
    return network.eval()


def _named(name: str) -> Any:
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return models.get_model(name, weights=None)
    if importlib.util.find_spec("timm") is not None:
        import timm

        if timm.is_model(name):
            return timm.create_model(name, pretrained=False)
        known += timm.list_models()
    raise UnknownName("architecture", name, known, "or name a factory as module:callable")


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UsageError(f"architecture 'timm:{name}' needs timm; pip install 'bandlens[timm]'") from error
    if not timm.is_model(name):
        raise UnknownName("timm architecture", name, timm.list_models())
    return timm.create_model(name, pretrained=False)


def _factory(architecture: str, module: str, expression: str) -> Any:
    attribute, arguments, options = _parse_call(architecture, expression)
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"architecture '{architecture}': {error}; is its folder on PYTHONPATH?") from error
    try:
        return factory(*arguments, **options)
    # Whatever a stranger's constructor raises, it is about these arguments.
    except Exception as error:
        raise UsageError(f"architecture '{architecture}' cannot be made: {type(error).__name__}: {error}") from error


def _parse_call(architecture: str, expression: str) -> tuple[str, list[Any], dict[str, Any]]:
    """`Class.method('b0', classes=8)` -> ("Class.method", ["b0"], {"classes": 8}); only literals, nothing evaluated."""
    try:
        node = ast.parse(expression, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        arguments = [ast.literal_eval(one) for one in call.args]
        options = {one.arg or "**": ast.literal_eval(one.value) for one in call.keywords}
        attribute = ast.unparse(call.func)
        if not all(part.isidentifier() for part in attribute.split(".")):
            raise ValueError(attribute)
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"cannot read architecture '{architecture}'; write module:callable or module:callable('text', number=1)"
        ) from error
    return attribute, arguments, options
