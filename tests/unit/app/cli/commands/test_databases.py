"""`bandlens studies`, and `merge` of one database."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_results import cell, condition, database_of, image_set, part
from small import Command

IMAGES = image_set(2)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    low = [part(cell(IMAGES, condition("lowpass", cutoff=cutoff)), [0, 1]) for cutoff in (0.1, 0.2)]
    database_of(tmp_path, IMAGES, low[:1], "mine")
    return database_of(tmp_path, IMAGES, low, "mine")


def test_delete_does_nothing_unasked(command: Command, database: Path) -> None:
    answer = command("studies", "delete", "mine@2", "--db", database)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "bandlens: mine@2: 1 cell with 2 predictions would go, and 1 cell stays, which something else uses; "
        "give --yes to delete them\n"
    )
    assert "mine@2" in command("studies", "list", "--db", database).out
    answer = command("studies", "delete", "mine@2", "--db", database, "--yes")
    assert answer.out.startswith("deleted mine@2: 1 cell with 2 predictions; 1 cell stays, which something else uses\n")
    assert "mine@2" not in command("studies", "list", "--db", database).out
    assert "mine@1" in command("studies", "list", "--db", database).out


def test_a_new_name_asks_for_no_version(command: Command, database: Path) -> None:
    answer = command("studies", "rename", "mine", "a@b", "--db", database)
    assert (answer.code, answer.out) == (2, "")
    assert "without @" in answer.err


def test_a_merge_of_one_tells_sizes(command: Command, database: Path) -> None:
    out = database.with_name("copy.duckdb")
    answer = command("merge", database, "--out", out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"{out}: ")
    assert " instead of " in answer.out
