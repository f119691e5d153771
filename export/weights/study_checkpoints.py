"""The 48 checkpoints: rows of checkpoints.toml as frozen records."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ...core.errors import UnknownName, UsageError

CATEGORY = "category:"
"""The beginning of a word that stands for all models of a category."""
OWN = "own"
"""The category of a user's models, and the key rule for their files."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The options of reading a file of weights."""

    rule: str = OWN
    """The key rule, one of those in checkpoints.toml."""
    weights: str | None = None
    """The choice among several weights in a file: `ema`, `raw`, or a key; by default `ema` where there is one."""
    trust: bool = False
    """Let the file run its code."""


OWN_WEIGHTS = Reading()


@dataclass(frozen=True, slots=True)
class Origin:
    """The place where one file is published; written KIND:ADDRESS."""

    kind: str
    address: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.address}"


@dataclass(frozen=True, slots=True)
class KeyRule:
    """How a file's keys become the architecture's; see the head of checkpoints.toml."""

    name: str
    containers: Sequence[str] = ()
    drop: Sequence[tuple[str, str]] = ()
    """Pairs of a pattern and why keys that it matches are left out."""
    rename: Sequence[tuple[str, str]] = ()
    """Pairs of a pattern and its replacement."""
    wrappers: Sequence[str] = ()
    """Beginnings that are taken off a key, each in turn, until it is one of the architecture's."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a checkpoint and the rule for its keys."""

    source: Origin
    rule: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    name: str
    category: str
    parts: tuple[Part, ...]
    """The network, and the linear head where that is a file of its own."""
    normalization: str
    """A name in NORMALIZATIONS."""
    licence: str
    published_top1: float
    """The share of the ImageNet validation set that it classifies rightly, in percent."""

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
    """All 48, grouped by category."""
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
    """The checkpoint of that name, or UnknownName."""
    by_name = {published.name: published for published in checkpoints()}
    if name not in by_name:
        raise UnknownName("checkpoint", name, by_name, "see `bandlens checkpoints list`")
    return by_name[name]


def by_category(category: str) -> tuple[Checkpoint, ...]:
    """The checkpoints of one category, or UnknownName."""
    members = tuple(published for published in checkpoints() if published.category == category)
    if not members:
        raise UnknownName("category", category, dict.fromkeys(published.category for published in checkpoints()))
    return members


def select(words: Sequence[str]) -> tuple[Checkpoint, ...]:
    """The checkpoints that words stand for, each once: a name, `category:NAME`, or `all`. UsageError without a word."""
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
    """The names of exponential moving averages of the weights in training scripts, the preferred one first."""
    return tuple(_registry()["ema"])


@cache
def key_rule(name: str) -> KeyRule:
    """The key rule of that name, or UnknownName."""
    rules = _registry()["rule"]
    if name not in rules:
        raise UnknownName("key rule", name, rules)
    return KeyRule(name, **rules[name])
