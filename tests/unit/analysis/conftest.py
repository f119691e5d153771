"""Databases of the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    with open_store(tmp_path / "results.duckdb") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One database for many examples, each a study of its own."""
    with open_store(tmp_path_factory.mktemp("shared") / "results.duckdb") as opened:
        yield opened
