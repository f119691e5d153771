"""Look up the 48 checkpoints of the study, which checkpoints.toml describes."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ...core.errors import UnknownName, UsageError

CATEGORY = "category:"
"""Prefix of a selector that names all models of a category."""
OWN = "own"
"""Category of a user's models, and name of the key rule for their weights files."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Options for reading a weights file."""

    rule: str = OWN
    """Name of a key rule in checkpoints.toml."""
    weights: str | None = None
    """Which weights to load if a file contains several: `ema`, `raw` or a key. Default: `ema` if there are any."""
    trust: bool = False
    """Load the file with pickle, which can execute code."""


OWN_WEIGHTS = Reading()


@dataclass(frozen=True, slots=True)
class Origin:
    """Location of a published file, written KIND:ADDRESS."""

    kind: str
    address: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.address}"


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Rule that maps the keys of a weights file to those of the architecture; see the comments in checkpoints.toml."""

    name: str
    containers: Sequence[str] = ()
    drop: Sequence[tuple[str, str]] = ()
    """Pairs of a regular expression and the reason for which matching keys are dropped."""
    rename: Sequence[tuple[str, str]] = ()
    """Pairs of a regular expression and its replacement."""
    wrappers: Sequence[str] = ()
    """Prefixes that are removed one after another until the key is one of the architecture's."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a checkpoint, and the rule for its keys."""

    source: Origin
    rule: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    name: str
    category: str
    parts: tuple[Part, ...]
    """Weights file of the network, and of the linear head if it is published separately."""
    normalization: str
    """Name of a normalization in `NORMALIZATIONS`."""
    licence: str
    published_top1: float
    """Published top-1 accuracy on the ImageNet validation set, in percent."""

    @property
    def source(self) -> str:
        return " + ".join(str(part.source) for part in self.parts)


@cache
def _registry() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("checkpoints.toml").read_text(encoding="utf-8"))


def _part(row: dict[str, Any]) -> Part:
    kind, _, address = row["source"].partition(":")
    return Part(Origin(kind, address), row["rule"])


@cache
def checkpoints() -> tuple[Checkpoint, ...]:
    """Return all 48 checkpoints, grouped by category."""
    return tuple(
        Checkpoint(
            name=row["name"],
            category=row["category"],
            parts=tuple(map(_part, [row, row["head"]] if "head" in row else [row])),
            normalization=row["normalization"],
            licence=row["licence"],
            published_top1=row["published_top1"],
        )
        for row in _registry()["checkpoint"]
    )


def checkpoint(name: str) -> Checkpoint:
    """Return the checkpoint of this name.

    Raises:
        UnknownName: There is none.
    """
    by_name = {published.name: published for published in checkpoints()}
    if name not in by_name:
        raise UnknownName("checkpoint", name, by_name, "see `bandlens checkpoints list`")
    return by_name[name]


def by_category(category: str) -> tuple[Checkpoint, ...]:
    """Return the checkpoints of a category.

    Raises:
        UnknownName: There is no such category.
    """
    members = tuple(published for published in checkpoints() if published.category == category)
    if not members:
        raise UnknownName("category", category, dict.fromkeys(published.category for published in checkpoints()))
    return members


def select(words: Sequence[str]) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that selectors refer to, without duplicates.

    Args:
        words: Selectors: a name, `category:NAME`, or `all`.

    Raises:
        UnknownName: A name or category does not exist.
        UsageError: There is no selector.
    """
    if not words:
        raise UsageError("say which: NAME…, category:C, or all; see `bandlens checkpoints list`")
    selection: list[Checkpoint] = []
    for word in words:
        if word == "all":
            selection += checkpoints()
        elif word.startswith(CATEGORY):
            selection += by_category(word.removeprefix(CATEGORY))
        else:
            selection.append(checkpoint(word))
    return tuple(dict.fromkeys(selection))


@cache
def ema_names() -> tuple[str, ...]:
    """Return the names that training scripts give to averaged (EMA) weights, in order of preference."""
    return tuple(_registry()["ema"])


@cache
def key_rule(name: str) -> KeyRule:
    """Return the key rule of this name.

    Raises:
        UnknownName: There is none.
    """
    rules = _registry()["rule"]
    if name not in rules:
        raise UnknownName("key rule", name, rules)
    return KeyRule(name, **rules[name])
