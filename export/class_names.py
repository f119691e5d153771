"""Find, store and load the class names of models.

Class names come from a text file, or from metadata stored with the weights. The description NAME.json contains them as
`class_names`, a list in the order of the logits. Labels of image sets are matched with a model's outputs by class name.
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
"""Keys under which training scripts store class names, such as those of Lightning, torchvision, timm and mmpretrain."""
PLACES = ("hyper_parameters", "datamodule_hyper_parameters", "meta", "config", "pretrained_cfg")
"""Keys of containers in which `KEYS` may be nested. Lightning stores hyperparameters in the first two."""
MOST_NAMES_BYTES = 1 << 22
"""Maximum size of a list of names in bytes."""
PLACEHOLDER = re.compile(r"(LABEL_|class_?)?\d+", re.IGNORECASE)
"""Matches placeholder names that consist of the class number only, such as LABEL_0."""


def read_class_names(file: Path) -> list[str]:
    """Read class names from a UTF-8 text file with one name per line.

    Raises:
        UsageError: The file cannot be read, a line is empty, or a name occurs twice.
    """
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
    """Return the metadata in a weights file that may contain class names, by key. Top-level entries take precedence."""
    containers = [content, *(content.get(place) for place in PLACES)] if isinstance(content, Mapping) else []
    notes: dict[str, Any] = {}
    for container in containers:
        if isinstance(container, Mapping):
            notes = {key: container[key] for key in KEYS if key in container} | notes
    return notes


def notes_beside(weights: Path) -> dict[str, Any]:
    """Return such metadata from config.json in the folder of a weights file, or nothing if it cannot be read."""
    try:
        return notes_of(parse_json(read_text(weights.with_name("config.json"), MOST_NAMES_BYTES)))
    except (OSError, ValueError):
        return {}


def find_class_names(notes: Mapping[str, Any], classes: int) -> list[str] | None:
    """Return the class names in the metadata of a model, or None if there are none.

    A value can be a list in the order of the logits, a mapping from numbers to names or from names to numbers, or text
    that represents one of these. Numeric placeholders, names shared by several classes, and lists of another length are
    ignored.

    Args:
        notes: Metadata, from `notes_of` or `notes_beside`.
        classes: Number of classes of the model.
    """
    for key in KEYS:
        for value in _readings(notes.get(key)):
            names = _in_order(value)
            if len(names) == classes == len(set(names)) and not all(map(PLACEHOLDER.fullmatch, names)):
                return names
    return None


def _readings(value: Any) -> Iterator[Any]:
    """Yield a value or, if it is text, every value that the text may represent."""
    if not isinstance(value, str):
        yield value
    elif len(value) <= MOST_NAMES_BYTES:  # parsing needs a hundred times the memory of the text
        for parse in (parse_json, ast.literal_eval):
            try:
                yield parse(value)
            # RecursionError, MemoryError: deeply nested text. ValueError: for example, a null byte.
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        yield [name.strip() for name in re.split(r"\n" if "\n" in value.strip() else ",", value.strip())]


def _in_order(value: Any) -> list[str]:
    """Return the names in the order of their class numbers, or an empty list if the value contains no class names."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        if all(isinstance(key, str) and isinstance(number, int) for key, number in pairs):
            pairs = [(number, name) for name, number in pairs]
        try:
            numbers = [int(number) for number, _ in pairs]
        except (TypeError, ValueError, OverflowError):
            return []
        # Check the range before using the numbers as keys. Python hashes integers modulo a prime, so a file could
        # contain large numbers with equal hashes, which would make insertion quadratically slow.
        if not all(0 <= number < len(pairs) for number in numbers):
            return []
        by_number = dict(zip(numbers, (name for _, name in pairs), strict=True))
        value = [by_number.get(number) for number in range(len(by_number))]
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return list(value) if is_list and all(isinstance(name, str) and name for name in value) else []


def class_names_of(model: Model) -> list[str] | None:
    """Return the class names of a model in the order of its logits, or None if its description has none.

    For a multi-label model, each class is a set of labels, and its name lists the labels.

    Raises:
        ExportError: The description does not contain exactly one name per class or label.
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
    """Store the class names of an exported model.

    The names are used to match the labels of image sets with the outputs of the model.

    Args:
        model: The exported model.
        names: One name per class, or per label of a multi-label model, in the order of the logits; or the path of a
            text file with one name per line.

    Raises:
        UsageError: The file cannot be read, the number of names is wrong, names are not unique, or the model's folder
            cannot be written.
    """
    if isinstance(names, (str, PathLike)):
        names = read_class_names(Path(names))
    update_description(model, {"class_names": names_for(model, names)})


def names_for(model: Model, names: Sequence[str]) -> list[str]:
    """Return class or label names for a model, after checking their number and that they are unique.

    Raises:
        UsageError: The check failed.
    """
    count, kind = model.named
    if len(names) != count:
        raise UsageError(
            f"{len(names)} names were given for the {count} {kind} of {model.name}; give one name for each, in the "
            "order of the logits: a list, or a file with a name a line"
        )
    check_distinct(names, f"{kind} of {model.name}")
    return list(names)


def check_distinct(names: Sequence[str], kind: str) -> None:
    """Check that names are unique, because labels are matched by name.

    Raises:
        UsageError: A name occurs more than once.
    """
    if duplicates := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"several {kind} are called {some_of(duplicates)}; give each its own name")
