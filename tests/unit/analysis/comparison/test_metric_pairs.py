"""Metrics of conditions of two runs differ by the definition of a paired difference."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_results import cell, condition, image_set, model, part, store_study
from scipy.stats import t

from bandlens.analysis.comparison.cell_pairs import Run
from bandlens.analysis.comparison.metric_pairs import OTHER_IMAGES, compare_measures
from bandlens.analysis.comparison.runs import compare_runs
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures

COUNT = 400
SETTINGS = (condition(), condition("lowpass", cutoff=0.1), condition("lowpass", cutoff=0.5))


def two_runs(
    store: Store, sizes: tuple[int, int] = (COUNT, COUNT), folder: str = ""
) -> tuple[list[Run], list[list[np.ndarray]]]:
    """Two runs that name shape or texture, with a tenth of B drawn again under the filters; and their classes."""
    runs, rng = [], np.random.default_rng(9)
    classes_a = [np.random.default_rng(k).integers(0, 2, COUNT) for k in range(3)]
    classes_b = [np.where(rng.random(COUNT) < 0.1, rng.integers(0, 2, COUNT), classes) for classes in classes_a[1:]]
    predictions = [classes_a, [classes_a[0], *classes_b]]
    for k, (count, answers) in enumerate(zip(sizes, predictions, strict=True)):
        images = image_set(
            count,
            labels=[0] * count,
            schemes={"texture": [[1]] * count},
            paths=[f"{folder * k}{n}.png" for n in range(count)],
        )
        by = model("net", content=f"weights {k}")
        parts = [
            part(cell(images, setting, by=by), classes[:count], classes[:count])
            for setting, classes in zip(SETTINGS, answers, strict=True)
        ]
        label = store_study(store, f"s{k}", images, parts)
        compute_measures(store, label)
        runs.append(Run(store, label))
    return runs, predictions


def test_differences_are_paired_over_the_images(store: Store) -> None:
    runs, predictions = two_runs(store)
    differences = compare_measures(*runs)[1]
    assert {"shape_bias", "cue_accuracy", "confidence", "clean_error_consistency"} <= set(differences["metric"])
    assert not {"accuracy", "agreement"} & set(differences["metric"]), "cells have these, with a test"
    rows = differences.filter(metric="shape_bias").rows(named=True)
    assert [row["probe"] for row in rows] == ["clean", "lowpass", "lowpass"]
    for row, a, b in zip(rows, *predictions, strict=True):
        d = (b == 0).astype(float) - (a == 0)
        assert row["difference"] == pytest.approx(d.mean())
        # k images differ, and half of one is lost unseen and half of one gained: Satterthwaite's degrees of freedom.
        k = np.count_nonzero(d)
        quantile = t.ppf(0.975, min(COUNT - 1, 2 * (k + 1) ** 2 / (k + 0.5)))
        half = quantile * np.sqrt((d.var() * COUNT + 1) / (COUNT - 1) / COUNT)
        assert (row["low"], row["high"]) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.02 * half)


def test_what_saw_other_images_is_taken_as_independent(store: Store) -> None:
    runs, _ = two_runs(store, (COUNT, COUNT - 10), "other/")
    for row in compare_measures(*runs)[1].filter(metric="shape_bias", probe="lowpass").rows(named=True):
        query = (
            "SELECT value, low, high FROM condition_metric_of(?) WHERE metric = 'shape_bias' AND probe = ? "
            "AND parameters::VARCHAR = ?"
        )
        (a, low_a, high_a), (b, low_b, high_b) = (
            run.store.frame(query, [run.label, row["probe"], row["parameters"]]).row(0) for run in runs
        )
        assert row["low"] == pytest.approx(b - a - np.hypot(b - low_b, high_a - a))
        assert row["high"] == pytest.approx(b - a + np.hypot(high_b - b, a - low_a))


def test_what_saw_a_part_of_the_images_is_not_compared(store: Store) -> None:
    runs, _ = two_runs(store, (COUNT, COUNT // 4))
    comparison = compare_runs(*runs)
    assert set(comparison.conditions["note"]) == {OTHER_IMAGES}
    assert (
        comparison.conditions.select("difference", "low", "high").null_count().row(0)
        == (len(comparison.conditions),) * 3
    )
    assert comparison.beyond_chance().conditions.is_empty()
    assert comparison.compared().conditions.is_empty()
    assert f"Not determined: differences in metrics on set, since {OTHER_IMAGES}; run both on the same images." in (
        comparison.verdict.undetermined
    )
