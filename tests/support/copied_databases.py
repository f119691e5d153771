"""Results databases of tests, made quickly: how one is made is tested without this fixture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandlens.analysis.database import merge
from bandlens.analysis.database import open as opening

MAKERS = (opening, merge)
"""Modules that make empty databases."""
write_empty = opening.write_empty


@pytest.fixture(scope="session", autouse=True)
def copied_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New databases of this process are copies of its first: running the schema takes half a second."""
    empty_database = tmp_path_factory.mktemp("database") / "results.duckdb"

    def copy(draft: Path, _: Path) -> None:
        if not empty_database.exists():
            write_empty(empty_database, empty_database)
        shutil.copyfile(empty_database, draft)

    with pytest.MonkeyPatch.context() as patch:
        for module in MAKERS:
            patch.setattr(module, "write_empty", copy)
        yield


@pytest.fixture
def made_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases are made as outside tests, for tests of just that."""
    for module in MAKERS:
        monkeypatch.setattr(module, "write_empty", write_empty)
