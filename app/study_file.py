"""Reading a study file, which others may have written: its size, its numbers, and what it must not hold."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..untrusted import read_text, without_secrets

LARGEST = 1 << 18
"""Bytes of a study file."""
MOST_DOTS = 1000
"""Of a line: what a dotted key costs Python's parser grows with the square of its parts."""


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
