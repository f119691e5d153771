"""A study over a set that grew or shrank computes the new images alone, and has the results of a fresh run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from file_openings import count_openings
from polars.testing import assert_frame_equal
from small import ask, make_model, make_pictures, make_study, rows_of, write_pictures

from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.plan import plan_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.runner import run_study
from bandlens.core.records import Crop
from bandlens.engine.backends.onnxruntime import OnnxRuntimeSession
from bandlens.probes.images.edit import add_images, remove_images
from bandlens.probes.images.pack import pack

PROBES = """
lowpass = {cutoff = 0.3}
critical_band = {noise_sd = 0.1, frequency = 1}
uniform_noise = {width = 0.2}
"""
OLD, NEW = 10, 7
"""Images of the smaller set, and those that the larger one has besides: neither is a multiple of the batch of 8."""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two models over a set of labelled photographs, with a folder `photos` of more of them."""
    for seed, name in enumerate(("one", "two")):
        make_model(tmp_path / "models", name, seed=seed)
    add_photos(tmp_path, range(OLD))
    pack(tmp_path / "photos", tmp_path / "images.set", crop=Crop(128, 128), labels=Path("folders"))
    return make_study(tmp_path, probes=PROBES)


def add_photos(folder: Path, numbers: range) -> None:
    pictures = make_pictures(OLD + NEW)
    write_pictures(folder / "photos", {f"{number % 3}/{number:02}.png": pictures[number] for number in numbers})


def grow(study: Path) -> Work:
    """Add the other images to the set; gives the study over the larger one."""
    add_photos(study.parent, range(OLD, OLD + NEW))
    add_images(study.parent / "images.set", study.parent / "photos", Path("folders"))
    return resolve(Study.read(study))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every forward pass of a session, padding included."""
    counts: list[int] = []
    infer = OnnxRuntimeSession.infer

    def count_images(session: OnnxRuntimeSession, images: np.ndarray, rows: slice) -> np.ndarray:
        counts.append(len(images))
        return infer(session, images, rows)

    monkeypatch.setattr(OnnxRuntimeSession, "infer", count_images)
    return counts


def check_equal(database: Path, fresh: Path) -> None:
    """Compare the predictions and sums of the cells that a fresh run has, to the last bit."""
    expected = rows_of(fresh)
    assert_frame_equal(
        rows_of(database).join(expected.select("key").unique(), on="key", how="semi"), expected, check_exact=True
    )
    sums = "SELECT key, sum(count), sum(right1), sum(right5) FROM part JOIN cell ON cell.id = cell GROUP BY ALL"
    assert set(ask(database, sums)) >= set(ask(fresh, sums))
    with open_store(database, read_only=True) as store:
        assert [check.problems for check in check_database(store) if check.problems] == []


def test_the_larger_set_computes_the_new_images_alone(study: Path, passes: list[int]) -> None:
    database, fresh = study.with_name("results.duckdb"), study.with_name("fresh.duckdb")
    run_study(resolve(Study.read(study)), database)
    rows = rows_of(database)
    work = grow(study)
    cells = len(work.cells)
    plan = plan_study(work, database)
    assert (plan.predictions, len(plan.missing)) == (NEW * cells, cells)
    passes.clear()
    with count_openings(study.with_name("images.set")) as openings:
        summary = run_study(work, database)
    assert (summary.predictions, summary.ran) == (NEW * cells, cells)
    assert openings == {"index-1.parquet": 1}, "the set was read by `resolve`, and the earlier one is read once"
    assert sum(passes) == cells * 8, "one batch of every cell holds the seven new images"
    assert_frame_equal(rows_of(database).filter(pl.col("key").is_in(set(rows["key"]))), rows, check_exact=True)
    run_study(work, fresh)
    check_equal(database, fresh)


def test_the_smaller_set_computes_nothing(study: Path, passes: list[int]) -> None:
    database, fresh = study.with_name("results.duckdb"), study.with_name("fresh.duckdb")
    run_study(resolve(Study.read(study)), database)
    remove_images(study.with_name("images.set"), ["0/03.png", "1/01.png"])
    work = resolve(Study.read(study))
    assert plan_study(work, database).predictions == 0
    passes.clear()
    assert run_study(work, database).predictions == len(passes) == 0
    run_study(work, fresh)
    check_equal(database, fresh)
    larger = grow(study)
    count = plan_study(larger, database).predictions
    assert count == (NEW + 2) * len(larger.cells), "both that were removed come back as new ones"


def test_a_probe_that_may_ask_for_places_is_computed_again_where_these_changed(study: Path) -> None:
    database = study.with_name("results.duckdb")
    study.with_name("own.py").write_text(
        "import numpy as np\ndef shift(image, index):\n    return np.roll(image, index, axis=-1)\n"
    )
    make_study(study.parent, probes="shift = {file = 'own.py'}\nlowpass = {cutoff = 0.3}")
    run_study(resolve(Study.read(study)), database)
    work = grow(study)
    assert run_study(work, database).predictions == NEW * len(work.cells)
    remove_images(study.with_name("images.set"), ["0/03.png"])
    work = resolve(Study.read(study))
    shifted = [cell for cell in work.cells if cell.condition.probe == "shift"]
    assert plan_study(work, database).predictions == (OLD + NEW - 1) * len(shifted) > 0
