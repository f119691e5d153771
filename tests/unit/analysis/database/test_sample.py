"""The sample is a whole database of today's schema, whose measures are those of today's formulas."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from made_up_results import cell, image_set, part, store_study
from pages import load_program
from polars.testing import assert_frame_equal
from small import Answer

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.sample import FILES
from bandlens.analysis.database.study_versions import last_run


def test_columns_of_the_sample_are_those_of_the_schema(tmp_path: Path) -> None:
    with open_store(tmp_path / "empty.duckdb") as store:
        for file in FILES.iterdir():
            assert pl.read_parquet_schema(file) == store.frame(f"FROM {file.stem}").schema, (
                "python -P docs/sample.py DB"
            )


def test_the_sample_has_three_megabytes_at_most_names_no_machine_and_opens_at_both_filters(sample: Path) -> None:
    assert sum(file.stat().st_size for file in FILES.iterdir()) <= 3_000_000
    with open_store(sample, read_only=True) as store:
        assert store.frame("SELECT DISTINCT host FROM study").item() == ""
        assert last_run(store) == "grid@1"


def test_a_database_of_the_sample_makes_the_sample_again(sample: Path, tmp_path: Path) -> None:
    program = load_program("sample")
    program.FILES = tmp_path / "files"
    program.make_sample([sample])
    assert {file.name for file in program.FILES.iterdir()} == {file.name for file in FILES.iterdir()}
    for file in FILES.iterdir():
        anew, rows = (pl.read_parquet(path) for path in (program.FILES / file.name, file))
        if "state" in rows.columns:  # a degenerate fit ends elsewhere with another version of SciPy
            anew, rows = (frame.filter(pl.col("state") != "degenerate") for frame in (anew, rows))
        assert_frame_equal(anew, rows)


def test_the_sample_agrees_with_itself_and_grows(sample: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(sample, tmp_path))
    images = image_set(2, labels=[0, 1])
    with open_store(path) as store:
        store_study(store, "mine", images, [part(cell(images), [0, 1], [0, 0])])
    assert not any(check.problems for check in bandlens.verify(path))
    assert "mine@1" in bandlens.list_studies(path)["study"]


def test_a_file_that_is_there_stays_and_a_folder_that_is_not_is_a_line(
    tmp_path: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sample.duckdb").write_text("mine")
    answer = command("sample")
    assert (answer.code, answer.err) == (
        2,
        "bandlens: sample.duckdb is there already and stays as it is; name another file with --out\n",
    )
    answer = command("sample", "--out", "none/sample.duckdb")
    assert (answer.code, answer.err) == (2, "bandlens: no folder none for the new database; make it first\n")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
