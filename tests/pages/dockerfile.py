"""Dockerfile, .dockerignore and lock files, read as Docker and pip read them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "docker/requirements.lock", ROOT / "docker/tensorrt.lock"
BLOCK = re.compile(r"^[A-Z]+ (?:.*\\\n(?:#.*\n)*)*.*\n", re.MULTILINE)
"""An instruction of a Dockerfile with the lines that continue it."""


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(keyword, value) of every instruction, continued lines joined."""
    plain = [re.sub(r"\\\n", " ", block) for block in BLOCK.findall(dockerfile)]
    return [(keyword, " ".join(value.split())) for keyword, value in (block.split(" ", 1) for block in plain)]


def values(dockerfile: str, keyword: str) -> list[str]:
    """The text behind each such keyword."""
    return [value for word, value in instructions(dockerfile) if word == keyword]


def context(root: Path) -> Iterator[Path]:
    """The files under `root` that its .dockerignore sends to the builder, relative to it."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [(line.startswith("!"), line.removeprefix("!")) for line in lines if line and not line.startswith("#")]

    def sent(path: Path) -> bool:
        """The last rule that matches the path or a folder above it decides."""
        names = [path.as_posix(), *(parent.as_posix() for parent in path.parents[:-1])]
        verdicts = [sends for sends, pattern in rules if any(_expression(pattern).fullmatch(name) for name in names)]
        return verdicts[-1] if verdicts else True

    def entered(path: Path) -> bool:
        return sent(path) or any(sends and pattern.startswith(f"{path.as_posix()}/") for sends, pattern in rules)

    for folder, folders, files in os.walk(root):
        place = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if entered(place / name)]
        yield from (place / name for name in files if sent(place / name))


def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*)", pattern)
    wild = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))


@dataclass(frozen=True, slots=True)
class Locked:
    """One line of a lock file."""

    version: str
    hashes: list[str]


def read_lock(file: Path) -> dict[str, Locked]:
    """Every distribution of a lock file by its canonical name; ValueError for a line that is neither pin nor hash."""
    text = re.sub(r"^ *#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    locked: dict[str, Locked] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})*) *", line)
        if line and not match:
            raise ValueError(f"{file}: {line}")
        if match:
            locked[canonicalize_name(match[1])] = Locked(match[2], re.findall(r"[0-9a-f]{64}", match[3]))
    return locked
