"""Definitions are compared with those of the schema; tests/hostile/ has what somebody else may define."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from bandlens.analysis.database import catalogue
from bandlens.analysis.database.catalogue import DIGEST_FILE, differences, names_of_duckdb
from bandlens.analysis.database.open import open_store


def test_the_stored_digest_is_of_this_schema(capsys: pytest.CaptureFixture[str]) -> None:
    catalogue.main()
    how = "write it again: python -P -m bandlens.analysis.database.catalogue > analysis/database/catalogue.json"
    assert DIGEST_FILE.read_text(encoding="utf-8") == capsys.readouterr().out, how


@pytest.mark.parametrize("name", ["duckdb", "schema"])
def test_a_digest_of_another_schema_or_duckdb_is_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "catalogue.json"
    of_another = json.loads(DIGEST_FILE.read_text(encoding="utf-8")) | {name: "another", "definitions": "of another"}
    stored.write_text(json.dumps(of_another), encoding="utf-8")
    monkeypatch.setattr(catalogue, "DIGEST_FILE", stored)
    with open_store(tmp_path / "r.duckdb") as store:
        assert store.differences() == {}
        store.execute("CREATE VIEW v AS SELECT 1 AS x")
        assert store.differences() == {("view", "v"): "added"}


def test_names_are_looked_up_in_the_file_before_and_after(tmp_path: Path) -> None:
    with (
        duckdb.connect(tmp_path / "r.duckdb") as connection,
        duckdb.connect(tmp_path / "r.duckdb") as second_connection,
    ):
        connection.execute("CREATE MACRO concat_ws(a, b) AS 'a macro'")
        query = "SELECT concat_ws('-', 'x')"
        with names_of_duckdb(connection) as file:
            assert file == "r"
            assert connection.execute(query).fetchall() == [("x",)]
            assert second_connection.execute(query).fetchall() == [("a macro",)]
        assert connection.execute(query).fetchall() == [("a macro",)]


def test_a_file_that_is_attached_is_compared_under_its_name(tmp_path: Path) -> None:
    with open_store(tmp_path / "sound.duckdb"):
        pass
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{tmp_path / 'sound.duckdb'}' AS old")
        assert differences(connection, "old") == {}
        connection.execute("CREATE TYPE old.main.x AS ENUM ('y')")
        assert differences(connection, "old") == {("type", "x"): "added"}
