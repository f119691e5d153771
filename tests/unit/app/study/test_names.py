"""No later study changes the names that a study gives to its models and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reported import report_data_of
from small import Command, ask, make_images, make_model, make_pictures, make_study

from bandlens.analysis.database.open import open_store

PROBES = "lowpass = { cutoff = [0.1, 0.2, 0.3, 0.4, 0.5] }"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models a and b; and the weights of b again, as another person's a, with the same pictures under another name."""
    pictures = make_pictures(12)
    make_model(tmp_path / "models", "a", seed=0)
    make_model(tmp_path / "models", "b", seed=1)
    make_model(tmp_path / "theirs", "a", seed=1, category="somebodys")
    make_images(tmp_path / "images.set", pictures, name="photographs")
    make_images(tmp_path / "again.set", pictures, name="pictures")
    return tmp_path


def test_a_second_study_renames_nothing_in_the_first(folder: Path, command: Command) -> None:
    database = folder / "results.duckdb"
    first = make_study(folder, name="first", probes=PROBES)
    second = make_study(folder, name="second", models="theirs", images=["again.set"], probes=PROBES)

    def read_views() -> list[list[tuple[Any, ...]]]:
        with open_store(database, read_only=True) as store:
            return [store.frame(f"FROM {view}_of('first') ORDER BY ALL").rows() for view in ("curve", "metric", "flip")]

    assert command("run", first, "--db", database).code == 0
    assert command("analyze", "--db", database, "--study", "first").code == 0
    views = read_views()
    assert "all 6 cells" in command("run", second, "--db", database).out, "the same weights on the same images"
    assert read_views() == views
    assert command("analyze", "--db", database).code == 0
    assert read_views() == views
    assert ask(database, "SELECT DISTINCT study, checkpoint, category, image_set FROM curve ORDER BY ALL") == [
        ("first", "a", "own", "photographs"),
        ("first", "b", "own", "photographs"),
        ("second", "a", "somebodys", "pictures"),
    ]
    query = "SELECT checkpoint, value FROM metric_of('first') WHERE metric = 'low_frequency_bias' ORDER BY ALL"
    checkpoints, biases = zip(*ask(database, query), strict=True)
    assert checkpoints == ("a", "b")
    assert None not in biases
    results = report_data_of(database, "first")
    assert results.checkpoints.select("name", "category").rows() == [("a", "own"), ("b", "own")]
    assert results.image_sets["name"].to_list() == ["photographs"]
    assert "problems" not in command("verify", "--db", database).err
    gate = ("gate", "precision", second, "--db", database, "--reference", "fp32", "--candidate", "openvino:fp32")
    rows = json.loads(command(*gate, "--format", "json").out)["rows"]
    assert {(row["checkpoint"], row["image_set"]) for row in rows} == {("a", "pictures")}
