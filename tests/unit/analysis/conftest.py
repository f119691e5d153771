"""Databases of the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bandlens.analysis.database.catalogue import schema_tables
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One database for many examples, each a study of its own."""
    with open_store(tmp_path_factory.mktemp("shared") / "results.duckdb") as store:
        yield store


@pytest.fixture(scope="module")
def emptied_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The database of the fixture `store`: a file for each test, and the views in it, would take most of its time."""
    with open_store(tmp_path_factory.mktemp("emptied") / "results.duckdb") as store:
        yield store


@pytest.fixture
def store(emptied_store: Store) -> Iterator[Store]:
    """An empty database; the store is a new one, since it knows the sessions that it added."""
    yield Store(emptied_store._connection, emptied_store.path, emptied_store._views)
    for table in schema_tables():
        if table != "meta":
            emptied_store.execute(f"DELETE FROM {table}")
