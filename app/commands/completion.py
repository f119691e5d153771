"""What a shell completes: names of checkpoints, engines, benchmarks and studies, looked up when Tab is pressed."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from ...export.weights.registry import checkpoints


def complete_checkpoint(incomplete: str) -> list[str]:
    return [one.name for one in checkpoints() if one.name.startswith(incomplete)]


def complete_category(incomplete: str) -> list[str]:
    return [one for one in dict.fromkeys(one.category for one in checkpoints()) if one.startswith(incomplete)]


def complete_engine(incomplete: str) -> list[str]:
    from ...engine.backends.base import ENGINES

    return [one for one in ("auto", *ENGINES) if one.startswith(incomplete)]


def complete_benchmark(incomplete: str) -> list[str]:
    from ...protocol import BENCHMARKS

    return [one for one in BENCHMARKS if one.startswith(incomplete)]


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    """Names and versions in the database of --db or $BANDLENS_DB; none where it cannot be read."""
    from ...analysis.database.open import open_store
    from ...errors import BandlensError

    db = Path(context.params.get("db") or os.environ.get("BANDLENS_DB") or "results.duckdb")
    try:
        with open_store(db, read_only=True) as store:
            known = store.frame("SELECT study, label FROM study_version ORDER BY study_id")
    except BandlensError:
        return []
    return [one for one in dict.fromkeys([*known["study"], *known["label"]]) if one.startswith(incomplete)]
