"""docs/reference is what docs/generate.py makes of the program."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from bandlens.analysis.database.open import open_store

DOCS = Path(__file__).parents[2] / "docs"


def load_generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


PAGES: Mapping[str, Callable[[], str]] = load_generator().PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_program_says(name: str) -> None:
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == PAGES[name](), "python -P docs/generate.py"


def test_every_page_of_the_folder_is_generated() -> None:
    assert {page.name for page in (DOCS / "reference").iterdir()} == set(PAGES)


def test_every_view_table_and_column_has_a_comment(tmp_path: Path) -> None:
    with open_store(tmp_path / "empty.duckdb") as store:
        for kind in ("columns", "tables", "views"):
            assert store.frame(f"FROM duckdb_{kind}() WHERE NOT internal AND comment IS NULL").is_empty(), kind
