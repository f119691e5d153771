"""Accuracy by attribute: against SQL, and intervals of the worst slice that hold although it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of
from made_up_results import cell, condition, image_set, part, store_study
from numpy.typing import NDArray

from bandlens.analysis.database.store import Store
from bandlens.analysis.database.study_versions import delete_study
from bandlens.analysis.metrics.base import State
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.predictions import MOST_VALUES, CellOutcomes, read_slices
from bandlens.analysis.metrics.registry import condition_metrics
from bandlens.analysis.metrics.slices import FEWEST_CLUSTERS, slice_differences, slice_estimates
from bandlens.analysis.statistics.proportions import difference_interval, share_interval, share_of

BLUR = condition("blur", width=2)
Slices = Mapping[tuple[str, str], NDArray[np.int64]]


def cells_of(hits: NDArray[np.bool_], clean: NDArray[np.bool_], slices: Slices) -> tuple[CellOutcomes, CellOutcomes]:
    """The clean cell, and one that is right as `hits` says."""
    images = replace(images_of(len(hits)), slices=slices)
    outcomes = outcomes_of({CLEAN: ~clean, BLUR: ~hits}, images)
    return tuple(outcomes.cells.values())  # type: ignore[return-value]


def sites(count: int, per_site: int) -> Slices:
    return {("site", f"{k:02}"): np.arange(k * per_site, (k + 1) * per_site) for k in range(count)}


def test_slices_of_a_study_are_those_of_sql(store: Store) -> None:
    rng = np.random.default_rng(0)
    slices = sites(3, 40) | {("weather", "fog"): np.arange(20, 70)}
    images = replace(image_set(120, labels=[0] * 120), attributes=slices)
    answers = {setting: rng.integers(0, 2, 120) for setting in (condition(), BLUR)}
    parts = [part(cell(images, setting), answer, answer) for setting, answer in answers.items()]
    store_study(store, "s", images, parts)
    compute_measures(store, "s")
    by_hand = store.frame(
        "SELECT probe, 'slice_accuracy_' || name || '=' || value AS metric, avg(correct::INT) AS accuracy, count(*) "
        "FROM cell_outcome JOIN cell_detail USING (cell) JOIN image_attribute AS attribute "
        "ON attribute.image_set = image_set_id AND attribute.image_index = cell_outcome.image_index GROUP BY ALL "
        "ORDER BY ALL"
    )
    rows = store.frame(
        "SELECT probe, metric, value, n FROM condition_metric WHERE metric ^@ 'slice_accuracy_' ORDER BY ALL"
    )
    assert rows.rows() == by_hand.rows()
    assert len(rows) == 8
    accuracy = {(probe, metric): value for probe, metric, value, _ in by_hand.rows()}
    minima = store.frame("SELECT probe, value, note FROM condition_metric WHERE metric = 'worst_slice_site'").rows()
    for probe, value, note in minima:
        by_site = {metric: value for (where, metric), value in accuracy.items() if where == probe and "site" in metric}
        assert (value, by_site[f"slice_accuracy_{note}"]) == (min(by_site.values()),) * 2
    assert {probe for probe, *_ in minima} == {"clean", "blur"}
    loss = store.frame("SELECT probe, value FROM condition_metric WHERE metric = 'largest_slice_loss'").rows()
    losses = [accuracy["clean", metric] - accuracy["blur", metric] for probe, metric in accuracy if probe == "blur"]
    assert loss == [("blur", max(losses))]


def test_attributes_are_stored_again_when_a_study_runs_again_and_go_with_their_images(store: Store) -> None:
    images = image_set(4, labels=[0] * 4)
    parts = [part(cell(images), [0] * 4, [0] * 4)]
    label = store_study(store, "s", images, parts)
    assert store.frame("FROM image_attribute").is_empty()
    for value in ("A", "B"):
        update = replace(images, attributes={("site", value): np.array([1, 3])})
        assert store.begin_study("s", "", [parts[0].cell], [update]) == label
    store.begin_study("s", "", [parts[0].cell], [images])
    assert store.frame("SELECT image_index, name, value FROM image_attribute ORDER BY ALL").rows() == [
        (1, "site", "B"),
        (3, "site", "B"),
    ]
    delete_study(store, "s")
    assert store.frame("FROM image_attribute").is_empty()


def test_an_attribute_with_many_values_has_no_slices(store: Store) -> None:
    count = MOST_VALUES + 1
    names = {("patient", f"{k:03}"): np.array([k]) for k in range(count)}
    images = replace(image_set(count), attributes=names | {("site", "A"): np.arange(50)})
    store.add_cells([cell(images)], [images])
    assert list(read_slices(store, store.frame("SELECT id FROM image_set").item())) == [("site", "A")]
    assert store.frame("SELECT count(DISTINCT value) FROM image_attribute WHERE name = 'patient'").item() == count


def test_one_slice_has_the_usual_intervals() -> None:
    rng = np.random.default_rng(1)
    hits, clean = rng.random(60) < 0.6, rng.random(60) < 0.9
    rows = np.arange(5, 55)
    clean_cell, blurred = cells_of(hits, clean, {("site", "A"): rows})
    estimates = slice_estimates(blurred)
    share, reference = (share_of(answer[rows], rows) for answer in (hits, clean))
    assert (estimates["worst_slice"].low, estimates["worst_slice"].high) == share_interval(share)
    low, high = difference_interval(share, reference) or (np.nan, np.nan)
    assert (estimates["largest_slice_loss"].low, estimates["largest_slice_loss"].high) == pytest.approx((low, high))
    assert "largest_slice_loss" not in slice_estimates(clean_cell)


def test_small_slices_are_not_chosen() -> None:
    hits = np.ones(40, bool)
    hits[:FEWEST_CLUSTERS] = False
    slices = {("site", "A"): np.arange(FEWEST_CLUSTERS - 1), ("site", "B"): np.arange(FEWEST_CLUSTERS, 40)}
    _, blurred = cells_of(hits, hits, slices)
    estimate = slice_estimates(blurred)["worst_slice"]
    assert (estimate.value, estimate.note) == (1, "site=B")
    _, blurred = cells_of(hits, hits, {("site", "A"): slices["site", "A"]})
    assert slice_estimates(blurred)["worst_slice"].state is State.UNDETERMINED


def test_the_interval_of_the_worst_slice_holds_although_it_was_chosen() -> None:
    """All of 20 slices are alike, so the worst is so by chance: its own interval misses the truth far too often."""
    rng, trials, misses_alone, misses, misses_of_loss = np.random.default_rng(2), 100, 0, 0, 0
    slices = sites(20, 50)
    for _ in range(trials):
        hits, clean = rng.random((2, 1000)) < 0.8
        _, blurred = cells_of(hits, clean, slices)
        estimates = slice_estimates(blurred)
        worst_slice, loss = estimates["worst_slice"], estimates["largest_slice_loss"]
        own_slice = estimates[f"slice_accuracy_{worst_slice.note}"]
        misses_alone += not own_slice.low <= 0.8 <= own_slice.high
        misses += not worst_slice.low <= 0.8 <= worst_slice.high
        misses_of_loss += not loss.low <= 0 <= loss.high
    assert misses_alone > 0.2 * trials
    assert misses <= 0.1 * trials
    assert misses_of_loss <= 0.1 * trials


def test_two_runs_are_paired_on_slices_of_the_same_images() -> None:
    rng = np.random.default_rng(3)
    right_a, right_b = rng.random((2, 60)) < 0.7
    slices = sites(2, 30)
    _, a = cells_of(right_a, right_a, slices)
    _, b = cells_of(right_b, right_b, slices | {("site", "01"): np.arange(31, 60)})
    rows = slices["site", "00"]
    expected = difference_interval(share_of(right_a[rows], rows), share_of(right_b[rows], rows))
    assert slice_differences(a, b) == {"slice_accuracy_site=00": expected}


def test_a_plan_says_that_slices_will_be_measured() -> None:
    images = image_set(4, labels=[0] * 4)
    cells = [cell(images), cell(images, BLUR)]
    assert "worst_slice" not in condition_metrics(cells, {})["set"]
    assert "worst_slice" in condition_metrics(cells, {}, sliced={images.info.digest})["set"]
