"""The names of a model's classes: listed in a text file, found beside its weights, or kept beside its file.

NAME.json keeps them as `class_names`, a list in the order of the logits. By them the labels of image sets are matched.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..core.errors import ExportError, UsageError, some_of
from ..core.records import Model, label_set_in_words
from ..core.untrusted import parse_json, read_text, words_of
from .model_files import describe_model, update_description

KEYS = (
    *("class_names", "classes", "CLASSES", "label_names", "labels", "names"),
    *("idx_to_class", "class_to_idx", "id2label", "label2id"),
)
"""Keys under which training scripts keep the names of classes: Lightning's, torchvision's, timm's, mmpretrain's."""
PLACES = ("hyper_parameters", "datamodule_hyper_parameters", "meta", "config", "pretrained_cfg")
"""Containers beside the weights in which these keys may lie; hyperparameters are those of Lightning."""
MOST_NAMES_BYTES = 1 << 22
"""The most bytes that a list of names may have."""
PLACEHOLDER = re.compile(r"(LABEL_|class_?)?\d+", re.IGNORECASE)
"""Names that are no more than numbers, as of models whose classes nobody named."""


def read_class_names(file: Path) -> list[str]:
    """The lines of a UTF-8 file, each the name of a class; UsageError where one is empty."""
    try:
        names = [line.strip() for line in read_text(file, MOST_NAMES_BYTES, pipe=True).rstrip().splitlines()]
    except OSError as error:
        raise UsageError(f"{file}: cannot read the names of classes ({words_of(error)}); check the path") from error
    except ValueError as error:
        raise UsageError(f"{file}: no list of classes ({error}); write one name a line, in UTF-8") from error
    if not all(names):
        raise UsageError(f"{file}, line {names.index('') + 1}: the name of a class is missing; write one name a line")
    check_distinct(names, f"classes in {file}")
    return names


def notes_of(content: Any) -> dict[str, Any]:
    """The values of a weights file that may name its classes, by their keys; those at the top come first."""
    containers = [content, *(content.get(place) for place in PLACES)] if isinstance(content, Mapping) else []
    notes: dict[str, Any] = {}
    for container in containers:
        if isinstance(container, Mapping):
            notes = {key: container[key] for key in KEYS if key in container} | notes
    return notes


def notes_beside(weights: Path) -> dict[str, Any]:
    """The same of the config.json in the folder of a weights file; none where that is no such file."""
    try:
        return notes_of(parse_json(read_text(weights.with_name("config.json"), MOST_NAMES_BYTES)))
    except (OSError, ValueError):
        return {}


def find_class_names(notes: Mapping[str, Any], classes: int) -> list[str] | None:
    """The names of so many classes among values beside the weights; None where none of them are such names.

    A value is a list in the order of the logits, a mapping of numbers to names or of names to numbers, or a text that
    is written so. Numbers for names, names of several classes and lists of another length are passed over.
    """
    for key in KEYS:
        for value in _readings(notes.get(key)):
            names = _in_order(value)
            if len(names) == classes == len(set(names)) and not all(map(PLACEHOLDER.fullmatch, names)):
                return names
    return None


def _readings(value: Any) -> Iterator[Any]:
    """A value, or what its text may stand for."""
    if not isinstance(value, str):
        yield value
    elif len(value) <= MOST_NAMES_BYTES:  # a parsed text takes a hundred times its memory
        for parse in (parse_json, ast.literal_eval):
            try:
                yield parse(value)
            # A text that is nested too deeply, or holds a null byte, is as little a list as any other.
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        yield [name.strip() for name in re.split(r"\n" if "\n" in value.strip() else ",", value.strip())]


def _in_order(value: Any) -> list[str]:
    """The names in the order of their numbers; none where the value is no list of names."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        if all(isinstance(key, str) and isinstance(number, int) for key, number in pairs):
            pairs = [(number, name) for name, number in pairs]
        try:
            numbers = [int(number) for number, _ in pairs]
        except (TypeError, ValueError, OverflowError):
            return []
        # Before they are keys: Python compares each key with all others where large numbers have one hash.
        if not all(0 <= number < len(pairs) for number in numbers):
            return []
        by_number = dict(zip(numbers, (name for _, name in pairs), strict=True))
        value = [by_number.get(number) for number in range(len(by_number))]
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return list(value) if is_list and all(isinstance(name, str) and name for name in value) else []


def class_names_of(model: Model) -> list[str] | None:
    """The names of a model's classes in the order of its logits, where its description has them; else None.

    Raises ExportError for a description whose names are not one a class, or one a label.
    """
    names, count = describe_model(model.path.parent, model.name).get("class_names"), model.named[0]
    if names is None:
        return None
    if not (isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names)):
        path = model.path.with_name(f"{model.name}.json")
        raise ExportError(f"{path} is damaged: class_names are not {count} texts; export {model.name} again")
    if not model.multilabel:
        return names
    return [
        label_set_in_words(name for label, name in enumerate(names) if number >> label & 1)
        for number in range(model.classes)
    ]


def name_classes(model: Model, names: str | PathLike[str] | Sequence[str]) -> None:
    """Keep the names of an exported model's classes, or of its labels, by which the labels of image sets are matched.

    Args:
        model: the model.
        names: a name for each in the order of the logits, or a text file of them, one a line.

    Raises UsageError where the file cannot be read, unless each has a name of its own, and where the folder cannot be
    written.
    """
    if isinstance(names, (str, PathLike)):
        names = read_class_names(Path(names))
    update_description(model, {"class_names": names_for(model, names)})


def names_for(model: Model, names: Sequence[str]) -> list[str]:
    """The names of a model's classes, or of its labels; UsageError unless each has a name of its own."""
    count, kind = model.named
    if len(names) != count:
        raise UsageError(
            f"{len(names)} names were given for the {count} {kind} of {model.name}; give one name for each, in the "
            "order of the logits: a list, or a file with a name a line"
        )
    check_distinct(names, f"{kind} of {model.name}")
    return list(names)


def check_distinct(names: Sequence[str], kind: str) -> None:
    """UsageError unless each name stands once: labels are matched by names."""
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"several {kind} are called {some_of(duplicates)}; give each its own name")
