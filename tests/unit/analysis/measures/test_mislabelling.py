"""Labels are doubted where their number of classes is another, or SciPy's interval of accuracy lies below chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, image_set, model, part, store_study
from scipy.stats import binomtest

from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.mislabelling import doubt_accuracies, doubt_counts, doubt_counts_of_study


@pytest.mark.parametrize("right", [0, 5, 11, 12, 20, 100])
def test_accuracies_are_doubted_where_their_interval_lies_below_chance(right: int, tmp_path: Path) -> None:
    images = image_set(200, labels=np.arange(200) % 10)
    rank = np.where(np.arange(200) < right, 0, 3)
    clean = cell(images, by=model(classes=10))
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "study", images, [part(clean, np.zeros(200), rank)])
        lines = doubt_accuracies(store, {clean.key: ("net", "set")})
        assert doubt_accuracies(store, {"unknown": ("net", "set")}) == []
    high = binomtest(right, 200).proportion_ci(method="wilson").high
    assert (len(lines) == 1) == (high < 0.1)
    assert all(f"image set set (net {right / 200:.3f} [" in line for line in lines)


@pytest.mark.parametrize(
    "info", [{"decision_space": "imagenet-a"}, {"schemes": {"texture": [[1]] * 200}}], ids=["ImageNet-A", "conflict"]
)
def test_images_that_mislead_models_are_not_doubted(info: dict[str, object], tmp_path: Path) -> None:
    images = image_set(200, labels=np.arange(200) % 10, **info)  # type: ignore[arg-type]
    clean = cell(images, by=model(classes=10))
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "study", images, [part(clean, np.zeros(200), np.ones(200))])
        assert doubt_accuracies(store, {clean.key: ("net", "set")}) == []


def test_numbers_of_classes_are_doubted_where_they_differ() -> None:
    models = {"net": 7, "imagenet": 1000}
    (line,) = doubt_counts("flowers", 3, 3, models)
    assert line.startswith("image set flowers has labels of 3 classes and net has 7, imagenet has 1,000, so that")
    (line,) = doubt_counts("numbers", 0, 3, models)
    assert "net has 7, so that" in line, "labels by WordNet ids have no names either"
    assert doubt_counts("whole", 7, 3, {"net": 7}) == doubt_counts("whole", 0, 7, models) == []


def test_a_study_in_a_database_is_doubted_under_its_own_names(tmp_path: Path) -> None:
    images, unlabelled = image_set(6, labels=[0, 1, 2, 0, 1, 2]), image_set(6, name="unlabelled")
    networks = [model("small", classes=3), model("large", classes=7)]
    parts = [part(cell(images, by=network), np.zeros(6), np.zeros(6)) for network in networks]
    parts += [part(cell(unlabelled, by=network), np.zeros(6)) for network in networks]
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "study", [images, unlabelled], parts)
        study_id = store.frame("SELECT id FROM study").item()
        lines = doubt_counts_of_study(store, study_id)
    assert lines == doubt_counts("set", 0, 3, {"large": 7})
