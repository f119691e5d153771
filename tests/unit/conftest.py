"""Results databases in this process alone, and quickly.

New ones are copies of one that was made at the start: running the schema takes a third of a second. They are opened
without the process that tries them first: tests/processes and tests/hostile have that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandlens.analysis.database import open as opening
from bandlens.analysis.database.trial import check_magic

create = opening.create


@pytest.fixture(scope="session", autouse=True)
def _copied_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    whole = tmp_path_factory.mktemp("database") / "results.duckdb"
    create(whole)

    def copy(path: Path) -> None:
        if path.parent.is_dir():
            shutil.copyfile(whole, path)
        else:
            create(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "create", copy)
        patch.setattr(opening, "try_opening", lambda path, _: check_magic(path))
        yield


@pytest.fixture
def made_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """New databases are made as outside tests, for tests of their making."""
    monkeypatch.setattr(opening, "create", create)
