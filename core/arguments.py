"""Check the arguments of the Python API against their type annotations before a long job starts.

A wrong argument raises `UsageError` with a one-line message instead of failing somewhere inside the job.

The annotations are parsed from their text on the first call of a function. Some names in them are imported under
`TYPE_CHECKING` only. Such a name is compared with the names of the value's class and its base classes, so that no
module has to be imported for the check.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from inspect import Parameter, isfunction, signature
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from .errors import BandlensError, UsageError
from .untrusted import one_line

Function = TypeVar("Function", bound=Callable[..., Any])
WORDS = {
    "str": "text",
    "PathLike": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "Mapping": "a dictionary",
    "Callable": "a function",
    "NDArray": "an array",
    "NoneType": "None",
}
"""Name of an annotated class -> the description of it in a message."""
LEAST = re.compile(r"min=(\d+)")
"""Finds the minimum value of a parameter in the text of its annotation."""
IN_PYTHON = {
    "--classes FILE of `bandlens export`": "bandlens.export_model(network, …, class_names=[…])",
    "--head SET or PROMPTS of `bandlens export`": "bandlens.export_model(bandlens.Backbone(network, SET), …)",
    "--head FILE.toml": "bandlens.Backbone(network, SET, output=NAME)",
    "--head multilabel": "bandlens.MultiLabel(network)",
    "--outputs logits of `bandlens export`": 'bandlens.export_model(network, …, outputs="logits")',
    "bandlens gate precision STUDY.toml --candidate ENGINE:PRECISION": "bandlens.gate_precision(STUDY, CANDIDATE)",
}
"""Command-line advice in error messages -> the equivalent advice for Python users.

Used for options that do not correspond to a parameter of the called function.
"""
OPTION = re.compile("|".join([*map(re.escape, IN_PYTHON), r"`[^`]*`", "bandlens [^;]*", "--[a-z-]+"]))
"""Matches an option in a message. It also matches whole commands, so that the options inside them are not replaced."""
LISTS = (Sequence, list, tuple)
MANY = (Annotated, Union, UnionType)
"""Annotations that accept what their arguments accept. For `Annotated`, only the first argument is a type."""
LONGEST = 80
"""Maximum number of characters of a value that a message shows."""


def checked(function: Function) -> Function:
    """Wrap a function so that it validates its arguments.

    An argument whose type does not match its annotation, or that is smaller than the annotated minimum, raises
    `UsageError`. The check is lenient where Python users expect it: a list may be any iterable or a single value, and
    numbers may be NumPy scalars.

    Errors that the function raises are reworded for Python: a command-line option becomes the parameter of the same
    name (`--out` becomes `out`), and the phrases in `IN_PYTHON` are replaced by their Python equivalents.

    Args:
        function: A function, or a class whose constructor and public methods are wrapped in place.

    Returns:
        The wrapped function, or the class itself.
    """
    if isinstance(function, type):
        for name, member in [*vars(function).items()]:
            if isinstance(member, classmethod):
                setattr(function, name, classmethod(checked(member.__func__)))
            elif isfunction(member) and (name == "__init__" or not name.startswith("_")):
                setattr(function, name, checked(member))
        return function

    @wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        try:
            values = signature(function).bind(*arguments, **settings).arguments
        except TypeError:
            # The arguments do not fit the signature. The call raises Python's own message, which names the argument.
            return function(*arguments, **settings)
        for name, kinds in _kinds_of_parameters(function).items():
            if name in values and not any(_is_of(kind, values[name]) for kind in kinds):
                words = " or ".join(dict.fromkeys(word for kind in kinds for word in _in_words(kind)))
                raise UsageError(f"{name} is {_shown(values[name])}; give {words}")
            least = LEAST.search(str(signature(function).parameters[name].annotation))
            # Negating `>=` instead of testing `<` also rejects NaN, because every comparison with NaN is false.
            if least and values.get(name) is not None and not values[name] >= int(least[1]):
                raise UsageError(f"{name} is {values[name]}; give {least[1]} or more")
        try:
            return function(*arguments, **settings)
        except BandlensError as error:
            options = {f"--{name.replace('_', '-')}": f"`{name}`" for name in signature(function).parameters}
            error.args = (OPTION.sub(lambda match: (IN_PYTHON | options).get(match[0], match[0]), str(error)),)
            raise

    return call  # type: ignore[return-value]


@cache
def _kinds_of_parameters(function: Callable[..., Any]) -> dict[str, list[Any]]:
    """Return the accepted types of each parameter, except for `self`, `cls`, `*args` and `**kwargs`."""
    names = vars(builtins) | function.__globals__
    return {
        name: [*_alternatives(ast.parse(str(parameter.annotation), mode="eval").body, names)]
        for name, parameter in signature(function).parameters.items()
        if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) and name not in ("self", "cls")
    }


def _alternatives(node: ast.expr, names: dict[str, Any]) -> Iterator[Any]:
    """Yield the alternatives of an annotation, as types, or as text where a name in them is not imported."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield from (*_alternatives(left, names), *_alternatives(right, names))
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *_])):
            yield from _alternatives(kind, names)
        case _:
            try:
                yield eval(ast.unparse(node), names)  # noqa: S307 - the text comes from this package
            except (NameError, AttributeError):
                yield ast.unparse(node)


def _is_of(kind: Any, value: Any) -> bool:
    # A class that is not imported is compared by name. A generic one, with brackets, is accepted without a check.
    if isinstance(kind, str):
        return "[" in kind or kind.rpartition(".")[2] in [base.__name__ for base in type(value).__mro__]
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in MANY:
        return any(_is_of(part, value) for part in _parts(kind))
    if origin is Literal:
        return value in parts
    if origin is bool:
        return hasattr(value, "__bool__") and value is not None
    if origin in (int, float):
        return isinstance(value, Integral if origin is int else Real)
    if origin is str:  # many text parameters are paths, so path objects are accepted too
        return isinstance(value, (str, PathLike))
    if origin in LISTS:
        if isinstance(value, (list, tuple)):
            return all(_is_of(parts[0], member) for member in value)
        return (isinstance(value, Iterable) and not isinstance(value, (str, Mapping))) or _is_of(parts[0], value)
    if origin is None:
        return value is None
    return origin is Any or not isinstance(origin, type) or isinstance(value, origin)


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)


def _in_words(kind: Any) -> Iterator[str]:
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in MANY:
        for part in _parts(kind):
            yield from _in_words(part)
    elif origin is Literal:
        yield from map(repr, parts)
    elif origin in LISTS:
        yield f"a list of {' or '.join(_in_words(parts[0]))}"
    else:
        text = kind if isinstance(kind, str) else (origin or NoneType).__name__
        name = text.partition("[")[0].rpartition(".")[2]
        yield WORDS.get(name, f"a {name}")


def _shown(value: Any) -> str:
    """Return the shortened `repr` of a built-in value, or the class name of any other object."""
    is_plain = isinstance(value, (str, int, float, list, tuple, dict, NoneType))
    return one_line(repr(value))[:LONGEST] if is_plain else f"a {type(value).__name__}"
