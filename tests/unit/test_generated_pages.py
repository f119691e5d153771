"""docs/reference and LEADERBOARD.md are what docs/generate.py makes of the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pages import ROOT, load_program

from bandlens.analysis.database.open import open_store

PAGES: Mapping[str, Callable[[], str]] = load_program("generate").PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_program_says(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "python -P docs/generate.py"


def test_every_page_of_the_folder_is_generated() -> None:
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs" / "reference").iterdir()}
    assert pages == PAGES.keys() - {"LEADERBOARD.md"}


def test_every_view_table_and_column_has_a_comment(tmp_path: Path) -> None:
    with open_store(tmp_path / "empty.duckdb") as store:
        for kind in ("columns", "tables", "views"):
            assert store.frame(f"FROM duckdb_{kind}() WHERE NOT internal AND comment IS NULL").is_empty(), kind
