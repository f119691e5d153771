"""Results databases of tests, made and opened quickly: what is left out here is tested without these fixtures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bandlens.analysis.database import merge, vacuum
from bandlens.analysis.database import open as opening
from bandlens.analysis.database.trial import check_magic

if TYPE_CHECKING:
    import duckdb

MAKERS = (opening, merge, vacuum)
"""Modules that make empty databases."""
write_empty, check_definitions = opening.write_empty, opening.check_definitions
_copies = set[tuple[int, ...]]()
"""Numbers that tell each copy from other files as long as nobody writes it."""


@pytest.fixture(scope="session", autouse=True)
def copied_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New databases of this process are copies of its first: running the schema takes half a second."""
    whole = tmp_path_factory.mktemp("database") / "results.duckdb"

    def copy(draft: Path, _: Path) -> None:
        if not whole.exists():
            write_empty(whole, whole)
        shutil.copyfile(whole, draft)
        _copies.add(opening._stamp(draft)[:4])

    with pytest.MonkeyPatch.context() as patch:
        for module in MAKERS:
            patch.setattr(module, "write_empty", copy)
        yield


@pytest.fixture(scope="session", autouse=True)
def trusted_databases() -> Iterator[None]:
    """Databases are opened without the process that tries them first.

    Their definitions are compared where somebody else has written the file. tests/processes and tests/hostile do
    without this.
    """

    def check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        stamp = opening._stamp(path)
        if stamp[:4] not in _copies and stamp != opening._known.get(path):
            check_definitions(connection, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "check_definitions", check)
        patch.setattr(opening, "try_opening", lambda path, _: check_magic(path))
        yield


@pytest.fixture
def made_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases are made and compared as outside tests, for tests of just that."""
    for module in MAKERS:
        monkeypatch.setattr(module, "write_empty", write_empty)
    monkeypatch.setattr(opening, "check_definitions", check_definitions)
