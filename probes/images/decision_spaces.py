"""Decision spaces: all classes, 200 or 16 entry-level ones that are made of 1000 logits, or sets of labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...core.errors import UnknownName
from ...core.protocol import SPACE_CLASSES
from ...core.records import MULTILABEL

NAMES = ("all", *SPACE_CLASSES, MULTILABEL)
"""Names of the decision spaces; an image set that says nothing has `all`."""


@dataclass(frozen=True, slots=True)
class DecisionSpace:
    """The k classes that a decision is made between."""

    name: str
    members: tuple[tuple[int, ...], ...]
    """The indices of each class's logits among the 1000."""
    ids: tuple[int, ...]
    """The number of each class in labels and predictions; ascending."""
    names: tuple[str, ...]
    """The name of each class in English."""


@cache
def imagenet_classes() -> dict[str, int]:
    """WordNet id -> class index, 0 to 999, of the 1000 classes of ImageNet."""
    return {wnid: index for index, wnid in enumerate(_lines("imagenet_wnids"))}


@cache
def decision_space(name: str) -> DecisionSpace:
    """The space of that name; UnknownName where there is none.

    `all` has the 1000 classes of ImageNet. `imagenet-a` and `imagenet-r` are the 200 classes of those data sets, by
    their indices among the 1000. `sixteen` are the entry-level classes of Geirhos et al. 2018, numbered 0 to 15 by
    name: each stands for several of the 1000, and together they leave some out. The classes of `multilabel` are those
    of a model, so that none are listed.
    """
    if name not in NAMES:
        raise UnknownName("decision space", name, [], f"all has ImageNet's 1,000 classes; known: {', '.join(NAMES)}")
    if name == "sixteen":
        rows = [line.split() for line in _lines("sixteen_classes")]
        members = tuple(tuple(int(index) for index in row[1:]) for row in rows)
        return DecisionSpace(name, members, tuple(range(len(rows))), tuple(row[0] for row in rows))
    if name == MULTILABEL:
        return DecisionSpace(name, (), (), ())
    classes, words = imagenet_classes(), _lines("imagenet_names")
    wnids = classes if name == "all" else _lines(f"{name.replace('-', '_')}_wnids")
    ids = tuple(sorted(classes[wnid] for wnid in wnids))
    return DecisionSpace(name, tuple((index,) for index in ids), ids, tuple(words[index] for index in ids))


def wnids_of(space: DecisionSpace) -> dict[str, int]:
    """WordNet id -> number, of the classes of a space whose classes are among the 1000."""
    ids = set(space.ids)
    return {wnid: index for wnid, index in imagenet_classes().items() if index in ids}


def names_of(space: DecisionSpace) -> dict[str, int]:
    """Name -> number, of the classes of a space."""
    return dict(zip(space.names, space.ids, strict=True))


def _lines(name: str) -> list[str]:
    return Path(__file__).with_name(f"{name}.txt").read_text(encoding="ascii").splitlines()
