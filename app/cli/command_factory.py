"""Commands of a terminal, each made of a function of `api` and a printer, which prints what the function returns.

The function says everything once. Its docstring is the help, without what it returns and raises; a line of `Args:` is
the help of a parameter. A parameter without a default is an argument, and one with a default an option of its name,
unless its annotation has a `typer.Argument` or `typer.Option`: these add what Python has no word for, such as a range,
a short name, or the words that a shell completes. `progress` is no option: it is shown.

A printer takes the result, then by their names the arguments that it prints; its other parameters are options of its
own. Its docstring ends the help: an example, the exit statuses.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from inspect import Parameter, Signature, getdoc, signature
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from ..api.parameters import File
from . import console

ARGUMENT_HELP = re.compile(r"^    (\w+): (.*(?:\n     .*)*)", re.MULTILINE)
"""A parameter in `Args:`, whose text may go on in lines that are further in."""
PYTHON_PARAGRAPHS = ("Args:", "Returns ", "Raises ")
"""The beginnings of paragraphs that are for Python alone."""


def command(
    function: Callable[..., Any], printer: Callable[..., Any] = lambda _: None, example: str = "", **fixed: Any
) -> Callable[..., None]:
    """Make a function of options that calls `function` and prints its result, for typer to call.

    Args:
        function: a function of `api`, or a thin one above it.
        printer: prints what that returns, unless the function prints by itself.
        example: the end of the help, where the printer is one of many commands and has none.
        fixed: arguments of the function that are no options.
    """
    (text, helps), (last_text, more_helps) = _read_docstring(function), _read_docstring(printer)
    options = {option.name: option for option in _options(function, helps) if option.name not in fixed}
    if "progress" in options:
        del options["progress"]
        fixed["progress"] = console.progress
    additions = list(_options(printer, more_helps, 1))
    parameters = {addition.name: addition for addition in additions} | options

    def run(**values: Any) -> None:
        # An option that was not typed has the default that Python has.
        result = function(**{name: values[name] for name in options if values[name] is not None}, **fixed)
        printer(result, **{addition.name: values[addition.name] for addition in additions})

    order = [*options, *(name for name in parameters if name not in options)]
    run.__name__ = function.__name__
    run.__doc__ = "\n\n".join(filter(None, (text, example or last_text)))
    run.__signature__ = Signature([parameters[name] for name in order])  # type: ignore[attr-defined]
    return run


def _read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The help of a function, without what is for Python alone, and that of each parameter."""
    paragraphs = (getdoc(function) or "").split("\n\n")
    arguments = "".join(text for text in paragraphs if text.startswith("Args:"))
    helps = {name: " ".join(text.split()) for name, text in ARGUMENT_HELP.findall(arguments)}
    return "\n\n".join(text for text in paragraphs if not text.startswith(PYTHON_PARAGRAPHS)), helps


def _options(function: Callable[..., Any], helps: Mapping[str, str], first: int = 0) -> Iterator[Parameter]:
    """The parameters of a function from the `first` on, as typer takes them: keywords with types that it knows."""
    names = _Names(getattr(function, "__globals__", {}))
    for name, parameter in [*signature(function).parameters.items()][first:]:
        annotation = eval(str(parameter.annotation), {}, names)  # noqa: S307 - of a module of this package
        settings: list[Any] = []
        if get_origin(annotation) is Annotated:
            annotation, *settings = get_args(annotation)
        is_required = parameter.default is Parameter.empty
        setting = copy(settings[0]) if settings else typer.Argument() if is_required else typer.Option()
        if isinstance(setting, ArgumentInfo):
            setting.metavar = setting.metavar or name.upper()
        elif setting.default is ...:
            setting.default = f"--{name.replace('_', '-')}"  # inside of Annotated, the first name stands here
        if setting.help is None and name in helps:
            setting.help = helps[name][0].upper() + helps[name][1:]
        default = list(parameter.default) or None if isinstance(parameter.default, tuple) else parameter.default
        setting.show_default = not (default is None or (is_required and isinstance(setting, ArgumentInfo)))
        kind = str if setting.parser else _plain_type(annotation)
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, setting])


class _Names(dict[str, Any]):
    """The names of a module. What it imports for type checkers alone may be given as a file."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, File)


def _plain_type(annotation: Any) -> Any:
    """The type of an option that typer knows, for one that Python takes: a path for text or a path, say."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) in (Union, UnionType):
        kind = Path if any(get_origin(kind) is PathLike for kind in kinds) else _plain_type(kinds[0])
        return kind | None if NoneType in get_args(annotation) else kind
    if get_origin(annotation) is Sequence:
        return list[_plain_type(kinds[0])]  # type: ignore[misc]
    return annotation
