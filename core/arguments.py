"""Arguments of the Python API: one whose kind its parameter does not take is refused in a line before a job begins.

Annotations are read as text when a function is first called. Names that a module imports for type checkers alone stand
for classes, of which a value is one if its class, or a class that this is made of, has the name: nothing is imported.
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
"""Class of an annotation -> what it is called in a message."""
LEAST = re.compile(r"min=(\d+)")
"""The least number that a parameter takes, in the text of its annotation."""
IN_PYTHON = {
    "--classes FILE of `bandlens export`": "bandlens.export_model(network, …, class_names=[…])",
    "--head SET or PROMPTS of `bandlens export`": "bandlens.export_model(bandlens.Backbone(network, SET), …)",
    "--head FILE.toml": "bandlens.Backbone(network, SET, output=NAME)",
    "--head multilabel": "bandlens.MultiLabel(network)",
    "--outputs logits of `bandlens export`": 'bandlens.export_model(network, …, outputs="logits")',
    "bandlens gate precision STUDY.toml --candidate ENGINE:PRECISION": "bandlens.gate_precision(STUDY, CANDIDATE)",
}
"""Words of a terminal in messages -> what Python has for them where the function that is called has no parameter."""
OPTION = re.compile("|".join([*map(re.escape, IN_PYTHON), r"`[^`]*`", "bandlens [^;]*", "--[a-z-]+"]))
"""An option in a message, or a command, whose options stay."""
LISTS = (Sequence, list, tuple)
MANY = (Annotated, Union, UnionType)
"""Annotations whose kinds are those of their parts; of Annotated it is the first part."""
LONGEST = 80
"""Characters of a value in a message."""


def checked(function: Function) -> Function:
    """The function, which raises UsageError where an argument is of no kind that its annotation has, or too small.

    Lists may be any that can be iterated over, or one value alone, and numbers those of NumPy. Messages have its
    parameters in place of options, `out` for --out, and the words of IN_PYTHON. Of a class, its public methods do so.
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
            return function(*arguments, **settings)  # Python says which is missing or too many
        for name, kinds in _kinds_of_parameters(function).items():
            if name in values and not any(_is_of(kind, values[name]) for kind in kinds):
                words = " or ".join(dict.fromkeys(word for kind in kinds for word in _in_words(kind)))
                raise UsageError(f"{name} is {_shown(values[name])}; give {words}")
            least = LEAST.search(str(signature(function).parameters[name].annotation))
            if least and values.get(name) is not None and not values[name] >= int(least[1]):  # nan is not
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
    """Name of a parameter that has a value of its own -> the kinds that it takes."""
    names = vars(builtins) | function.__globals__
    return {
        name: [*_alternatives(ast.parse(str(parameter.annotation), mode="eval").body, names)]
        for name, parameter in signature(function).parameters.items()
        if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) and name not in ("self", "cls")
    }


def _alternatives(node: ast.expr, names: dict[str, Any]) -> Iterator[Any]:
    """The kinds in an annotation: what it evaluates to, or its text where a name in it is not imported."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield from (*_alternatives(left, names), *_alternatives(right, names))
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *_])):
            yield from _alternatives(kind, names)
        case _:
            try:
                yield eval(ast.unparse(node), names)  # noqa: S307 - of a module of this package
            except (NameError, AttributeError):
                yield ast.unparse(node)


def _is_of(kind: Any, value: Any) -> bool:
    if isinstance(kind, str):  # a class by its name; one with brackets is not looked into
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
    if origin is str:  # often the text of a path
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
    """A plain value or a list as it is, and the class of another."""
    is_plain = isinstance(value, (str, int, float, list, tuple, dict, NoneType))
    return one_line(repr(value))[:LONGEST] if is_plain else f"a {type(value).__name__}"
