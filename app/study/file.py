"""A study: a TOML file that names checkpoints, image sets and probes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...analysis.comparison.gate import Limits
from ...errors import UnknownName, UsageError
from ...probes.arrays import processors
from ...probes.grid import PUBLISHED
from ...untrusted import read_text, without_secrets

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Study:
    """A study file as it was written, with its defaults. Paths are relative to the file's folder."""

    name: str
    checkpoints: list[str]
    """Names of exported models; `*` stands for all of them, `category:NAME` for those of a category."""
    images: list[str]
    """Folders of image sets; `*` in a path stands for any name: "imagenet-c/*/*"."""
    probes: Mapping[str, Mapping[str, Any]]
    clean_images: list[str] = field(default_factory=list)
    """Image sets that are run without perturbation alone, such as the other benchmarks beside imagenet."""
    models: str = ""
    """Folder of exported models; the default is where `bandlens export` puts them."""
    engine: str = AUTO
    """An engine by name, or `auto`: the fastest that this machine has."""
    precision: str = "fp32"
    batch: int = 32
    threads: int = 0
    """How many the engine uses; 0 takes every processor."""
    seed: int = 0
    """What noise is drawn with, and images where there is a limit, in [0, 2^63)."""
    limit: int = 0
    """How many images of each set are run, drawn from all classes evenly; 0 takes all."""
    gate: Limits = field(default_factory=Limits)
    """What a precision may differ in from fp32 to pass its gate."""
    folder: Path = Path()
    toml: str = ""

    @property
    def thread_count(self) -> int:
        return self.threads or processors()


def read_study(file: Path) -> Study:
    """Parse and check a study file; UsageError says what is wrong with which key."""
    toml, table = parse_study(file)
    known = [one.name for one in fields(Study) if one.name not in ("folder", "toml")]
    for key in table:
        if key not in known:
            raise UnknownName(f"key in {file}", key, known, f"the keys are {', '.join(known)}")
    table.setdefault("name", file.stem)
    table.setdefault("probes", PUBLISHED)
    for key in ("checkpoints", "images"):
        if key not in table:
            raise UsageError(f"{file}: {key} is missing; it is a list of names")
    for key, value in table.items():
        _check(file, key, value)
    table["gate"] = _limits(file, table.get("gate", {}))
    return Study(**table, folder=file.parent, toml=toml)


KEYS: Mapping[str, tuple[type[Any], str]] = {
    "checkpoints": (list, "a list of names"),
    "images": (list, "a list of folders"),
    "clean_images": (list, "a list of folders"),
    "probes": (dict, "a table"),
    "gate": (dict, "a table"),
    "batch": (int, "a whole number"),
    "threads": (int, "a whole number"),
    "seed": (int, "a whole number"),
    "limit": (int, "a whole number"),
}
RANGES: Mapping[str, tuple[int, int]] = {
    "batch": (1, 4096),
    "threads": (0, 1024),
    "seed": (0, 2**63 - 1),
    "limit": (0, 2**31 - 1),
}


def is_study_name(text: str) -> bool:
    """Whether a study may be called so: a line of text that asks for no version."""
    return bool(text) and "@" not in text and text != "*" and text.isprintable()


def _check(file: Path, key: str, value: Any) -> None:
    kind, words = KEYS.get(key, (str, "a string"))
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{file}: {key} must be {words}, not {value!r}")
    if isinstance(value, list) and not (value and all(isinstance(entry, str) for entry in value)):
        raise UsageError(f"{file}: {key} must be {words}, and at least one, not {value!r}")
    if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
        raise UsageError(f"{file}: {key} must be in [{RANGES[key][0]}, {RANGES[key][1]}], not {value}")
    if key == "name" and not is_study_name(value):
        raise UsageError(f"{file}: name must be a line of text without @, which asks for a version, not {value!r}")


def _limits(file: Path, table: Mapping[str, Any]) -> Limits:
    known = [one.name for one in fields(Limits)]
    for key, value in table.items():
        if key not in known:
            raise UnknownName(f"key in [gate] of {file}", key, known)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
            raise UsageError(f"{file}: gate.{key} must be a share above 0 and below 1, not {value!r}")
    return Limits(**table)


# What others may have written: its size, its numbers, and what it must not hold
LARGEST = 1 << 18
"""Bytes of a study file."""
MOST_DOTS = 1000
"""Dots that a line may have: what a dotted key costs Python's parser grows with the square of its parts."""


def parse_study(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of a study file, and what it says; UsageError where it says nothing, or what must not be stored."""
    try:
        toml = read_text(file, LARGEST, pipe=True)
        if any(line.count(".") > MOST_DOTS for line in toml.split("\n")):
            raise ValueError(f"a line has more than {MOST_DOTS:,} dots")
        table = tomllib.loads(toml)
    except FileNotFoundError:
        raise UsageError(f"no study file {file}; see `bandlens run --help` for what one looks like") from None
    except (OSError, ValueError) as error:  # what is no TOML or no UTF-8 is a ValueError, and so is a huge number
        raise UsageError(f"{file} cannot be read as TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{file} cannot be read as TOML: it is nested too deeply") from None
    if without_secrets(toml) != toml:
        raise UsageError(
            f"{file} holds a password or token, and a study is kept in the results database; take it out, and let a "
            "probe of yours read it from the environment"
        )
    _refuse_huge_numbers(file, table)
    return toml, table


def _refuse_huge_numbers(file: Path, value: Any) -> None:
    """UsageError for a whole number beyond TOML's 64 bits, which neither a database nor a message could hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise UsageError(f"{file}: a whole number has more than 64 bits; TOML has none so large")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_huge_numbers(file, one)
