"""Results databases in this process alone, and quickly.

New ones are copies of one that was made at the start: running the schema takes a third of a second. They are opened
without the process that tries them first, and their definitions are compared where somebody else has written the file:
tests/processes and tests/hostile have both.
"""

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


@pytest.fixture(scope="session", autouse=True)
def copied_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    whole = tmp_path_factory.mktemp("database") / "results.duckdb"
    write_empty(whole, whole)
    copies = set[tuple[int, ...]]()
    """Numbers that tell each copy from other files as long as nobody writes it."""

    def copy(draft: Path, _: Path) -> None:
        shutil.copyfile(whole, draft)
        copies.add(opening._stamp(draft)[:4])

    def check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        stamp = opening._stamp(path)
        if stamp[:4] not in copies and stamp != opening._known.get(path):
            check_definitions(connection, path)

    with pytest.MonkeyPatch.context() as patch:
        for module in MAKERS:
            patch.setattr(module, "write_empty", copy)
        patch.setattr(opening, "check_definitions", check)
        patch.setattr(opening, "try_opening", lambda path, _: check_magic(path))
        yield


@pytest.fixture
def made_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases are made and compared as outside tests, for tests of just that."""
    for module in MAKERS:
        monkeypatch.setattr(module, "write_empty", write_empty)
    monkeypatch.setattr(opening, "check_definitions", check_definitions)
