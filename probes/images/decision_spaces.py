"""Define decision spaces, the sets of classes between which a prediction is made.

A decision space consists of all classes of the model, of 200 or 16 classes derived from the 1000 ImageNet logits, or of
label sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...core.errors import UnknownName
from ...core.protocol import SPACE_CLASSES
from ...core.records import MULTILABEL

NAMES = ("all", *SPACE_CLASSES, MULTILABEL)
"""Names of the decision spaces. The default of an image set is `all`."""


@dataclass(frozen=True, slots=True)
class DecisionSpace:
    """The k classes of a decision space."""

    name: str
    """Name of the decision space, one of `NAMES`."""
    members: tuple[tuple[int, ...], ...]
    """For each class, the indices of its logits among the 1000 of ImageNet."""
    ids: tuple[int, ...]
    """Index of each class in labels and predictions, in ascending order."""
    names: tuple[str, ...]
    """English name of each class."""


@cache
def imagenet_classes() -> dict[str, int]:
    """Return WordNet ID -> class index, 0 to 999, for the 1000 classes of ImageNet."""
    return {wnid: index for index, wnid in enumerate(_lines("imagenet_wnids"))}


@cache
def decision_space(name: str) -> DecisionSpace:
    """Return the decision space with the given name.

    - `all` contains the 1000 classes of ImageNet.
    - `imagenet-a` and `imagenet-r` contain the 200 classes of these data sets, with their indices among the 1000.
    - `sixteen` contains the entry-level classes of Geirhos et al. 2018, numbered 0 to 15 in alphabetical order. Each
      combines several of the 1000 classes, and some of the 1000 belong to none of them.
    - `multilabel` has no fixed classes, because they are those of the model.

    Raises:
        UnknownName: No decision space has this name.
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
    """Return WordNet ID -> class index for a decision space whose classes are ImageNet classes."""
    ids = set(space.ids)
    return {wnid: index for wnid, index in imagenet_classes().items() if index in ids}


def names_of(space: DecisionSpace) -> dict[str, int]:
    """Return class name -> class index for a decision space."""
    return dict(zip(space.names, space.ids, strict=True))


def _lines(name: str) -> list[str]:
    return Path(__file__).with_name(f"{name}.txt").read_text(encoding="ascii").splitlines()
