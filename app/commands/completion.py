"""Words that a shell completes: names of checkpoints, engines, benchmarks and studies, looked up on Tab."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import typer

from ...core.errors import BandlensError
from ...core.protocol import BENCHMARKS
from .. import api


def complete_checkpoint(incomplete: str) -> list[str]:
    return _beginning((checkpoint.name for checkpoint in api.models.list_checkpoints()), incomplete)


def complete_category(incomplete: str) -> list[str]:
    return _beginning((checkpoint.category for checkpoint in api.models.list_checkpoints()), incomplete)


def complete_engine(incomplete: str) -> list[str]:
    return _beginning(api.models.engine_names(), incomplete)


def complete_benchmark(incomplete: str) -> list[str]:
    return _beginning(BENCHMARKS, incomplete)


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    """Names and versions in the database of --db or $BANDLENS_DB; none where it cannot be read."""
    db = Path(context.params.get("db") or os.environ.get("BANDLENS_DB") or "results.duckdb")
    try:
        return _beginning(api.results.study_labels(db), incomplete)
    except BandlensError:
        return []


def _beginning(words: Iterable[str], start: str) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(start)]
