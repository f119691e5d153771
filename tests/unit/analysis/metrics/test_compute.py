"""Metrics of a study from the database are the same numbers as from the outcomes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from made_up_results import SESSION, Images, cell, condition, image_set, model, part, store_study
from numpy.typing import NDArray

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.families.critical_band import (
    FREQUENCIES,
    NOISE_SDS,
    fit_band,
    integer_thresholds,
    normalized_thresholds,
)
from bandlens.analysis.metrics.families.psychometric import estimate_band
from bandlens.analysis.metrics.predictions import subjects
from bandlens.core.errors import UsageError
from bandlens.core.records import Condition, Failed, Finished

COUNT, CLASSES = 80, 1000
CUTOFFS = (0.1, 0.2, 0.3, 0.4, 0.5)
CLEAN = condition()
SPECTRAL = {probe: [condition(probe, cutoff=c) for c in CUTOFFS] for probe in ("lowpass", "highpass")}
BAND = [condition("critical_band", noise_sd=0.0)] + [
    condition("critical_band", noise_sd=sd, frequency=f, draw="shared") for f in FREQUENCIES for sd in NOISE_SDS[1:]
]
Outcomes = Mapping[Condition, NDArray[np.bool_]]


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """Right or wrong for each image: a channel around octave 3, and half of the accuracy below 0.3 of the spectrum."""
    rng = np.random.default_rng(7)
    ease = rng.uniform(size=COUNT)
    answers = {CLEAN: ease < 0.9}
    for probe, ceiling in (("lowpass", 0.8), ("highpass", 0.3)):
        answers |= {setting: ease < ceiling * setting["cutoff"] / 0.5 for setting in SPECTRAL[probe]}
    for setting in BAND:
        sd = setting.number("noise_sd") or 0.0
        strength = sd / (0.03 * 2.0 ** abs((setting.number("frequency") or 0.0) - 3))
        answers[setting] = ease < 0.85 / (1 + strength**2)
    return answers


def parts(outcomes: Outcomes, images: Images, name: str = "net") -> list[Finished]:
    """Predictions that come out right where they should, against labels or the clean prediction."""
    by = model(name, classes=CLASSES)
    if images.labels is not None:
        return [part(cell(images, setting, by=by), ~hits * 3, ~hits * 3) for setting, hits in outcomes.items()]
    return [
        part(cell(images, setting, by=by), np.zeros(COUNT) if setting == CLEAN else ~hits)
        for setting, hits in outcomes.items()
    ]


def photos(clusters: NDArray[np.int64] | None = None) -> Images:
    return image_set(COUNT, labels=np.zeros(COUNT), clusters=clusters)


Metrics = Mapping[str, Mapping[str, Any]]
"""Metric -> its row."""


def metrics_in(store: Store, study: str = "s") -> Metrics:
    return {row["metric"]: row for row in store.frame("FROM metric_of(?)", [study]).to_dicts()}


def analyze(store: Store, outcomes: Outcomes, images: Images | None = None, study: str = "s") -> Metrics:
    """The metrics of a study of these outcomes, on labelled images unless others are given."""
    images = images or photos()
    store_study(store, study, images, parts(outcomes, images))
    compute_measures(store, study)
    return metrics_in(store, study)


@pytest.fixture(scope="module")
def reference(shared_store: Store, outcomes: Outcomes) -> Metrics:
    return analyze(shared_store, outcomes)


def test_the_published_critical_band_is_that_of_the_accuracies(reference: Metrics, outcomes: Outcomes) -> None:
    shares = {
        (setting.number("noise_sd"), setting.number("frequency")): 100 * outcomes[setting].mean() for setting in BAND
    }
    percent = np.array([[shares[sd, f if sd else None] for f in FREQUENCIES] for sd in NOISE_SDS])
    for suffix, thresholds in (("", normalized_thresholds(percent)), ("_raw", integer_thresholds(percent))):
        band = fit_band(thresholds)
        assert band["bandwidth"].state != "degenerate"
        for name, estimate in band.items():
            assert reference[f"critical_{name}{suffix}"]["value"] == pytest.approx(estimate.value)
        assert [reference[f"critical_threshold_{f}{suffix}"]["value"] for f in FREQUENCIES] == list(thresholds)
        assert reference[f"critical_bandwidth{suffix}"]["state"] == band["bandwidth"].state


def test_the_psychometric_fit_sees_every_image_and_cluster(store: Store, outcomes: Outcomes) -> None:
    clusters = np.arange(COUNT) // 2
    metrics = analyze(store, outcomes, photos(clusters))
    band = estimate_band(np.stack([outcomes[setting] for setting in BAND]), clusters, floor=1 / CLASSES)
    assert len(band) == 10
    columns = ("value", "low", "high", "state", "note")
    for name, estimate in band.items():
        row = metrics[f"psychometric_{name}"]
        assert [row[column] for column in columns] == [estimate.row("")[column] for column in columns]


def test_levels_beside_the_published_ones_change_nothing_of_the_published_estimator(
    store: Store, reference: Metrics, outcomes: Outcomes
) -> None:
    noise = {condition("critical_band", noise_sd=0.3, frequency=f, draw="shared"): outcomes[CLEAN] for f in FREQUENCIES}
    metrics = analyze(store, {**outcomes, **noise})
    published = [name for name in reference if name.startswith("critical_")]
    assert [metrics[name]["value"] for name in published] == [reference[name]["value"] for name in published]
    assert len(published) == 20


def test_centre_frequencies_follow_the_size_of_the_images(store: Store, reference: Metrics, outcomes: Outcomes) -> None:
    metrics = analyze(store, outcomes, image_set(COUNT, labels=np.zeros(COUNT), size=384))
    for name in ("critical_center_frequency", "psychometric_center_frequency"):
        assert metrics[name]["value"] == pytest.approx(reference[name]["value"] * 384 / 224)
    for name in ("critical_bandwidth", "psychometric_bandwidth", "spectral_bias"):
        assert metrics[name]["value"] == reference[name]["value"]


def test_agreement_is_measured_where_there_are_no_labels(store: Store, outcomes: Outcomes) -> None:
    metrics = analyze(store, outcomes, image_set(COUNT))
    low, high = (np.mean([outcomes[setting].mean() for setting in SPECTRAL[f]]) for f in ("lowpass", "highpass"))
    assert metrics["low_frequency_bias"]["value"] == pytest.approx(low)
    assert metrics["spectral_bias"]["value"] == pytest.approx(high / (low + high))
    assert metrics["psychometric_center_frequency"]["state"] == "at_chance", "all clean answers are of one class"


def test_without_a_clean_prediction_there_is_no_agreement(store: Store, outcomes: Outcomes) -> None:
    images = image_set(COUNT)
    clean, *perturbed = parts(outcomes, images)
    store.begin_study("s", "", [part.cell for part in (clean, *perturbed)], [images])
    store.commit([Failed(clean.cell, "boom"), *perturbed], {clean.cell.variant: SESSION})
    compute_measures(store, "s")
    *bands, bias = map(metrics_in(store).get, ("critical_bandwidth", "psychometric_bandwidth", "spectral_bias"))
    for band in bands:
        assert (band["value"], band["state"], band["note"]) == (None, "missing", "no clean prediction to agree with")
    assert (bias["value"], bias["state"], "no ratio to clean" in bias["note"]) == (None, "undetermined", True)


def test_nothing_right_without_noise_is_said(store: Store, outcomes: Outcomes) -> None:
    metrics = analyze(store, {setting: np.zeros(COUNT, bool) for setting in outcomes})
    assert metrics["critical_bandwidth"]["note"] == "nothing is right without noise"
    assert {metrics[name]["state"] for name in ("critical_bandwidth", "spectral_bias")} == {"undetermined"}
    assert metrics["critical_bandwidth_raw"]["state"] == "degenerate"
    assert "is no more than twice what answers at random reach" in metrics["psychometric_bandwidth"]["note"]
    assert {metrics[f"psychometric_{name}"]["state"] for name in ("bandwidth", "threshold_0")} == {"at_chance"}


def test_a_published_critical_band_at_chance_says_so(store: Store, outcomes: Outcomes) -> None:
    """Half of any accuracy between two classes is no more than that of a blind guess."""
    by = model(classes=2)
    store_study(store, "s", photos(), [part(cell(photos(), s, by=by), ~r * 1, ~r * 1) for s, r in outcomes.items()])
    compute_measures(store, "s")
    band = {name: row for name, row in metrics_in(store).items() if name.startswith("critical_")}
    assert {row["state"] for row in band.values()} == {"at_chance"}
    assert "is no more than twice what answers at random reach, 0.5" in band["critical_bandwidth"]["note"]


def test_analyzing_again_replaces_the_rows_of_a_study_and_leaves_other_studies_alone(
    store: Store, outcomes: Outcomes
) -> None:
    subset = {setting: hits for setting, hits in outcomes.items() if setting.probe != "critical_band"}
    analyze(store, subset)
    better = subset | dict.fromkeys(SPECTRAL["lowpass"], subset[CLEAN])
    store_study(store, "other", photos(), parts(better, photos(), "better"))
    compute_measures(store, "*")
    tables = [store.frame(f"FROM {view} ORDER BY ALL").rows() for view in ("metric", "condition_metric")]
    compute_measures(store, "s")
    assert [store.frame(f"FROM {view} ORDER BY ALL").rows() for view in ("metric", "condition_metric")] == tables
    low = [metrics_in(store, study)["low_frequency_bias"]["value"] for study in ("other", "s")]
    assert (low[0], low[1] < 0.9) == (pytest.approx(1.0), True)


def test_every_checkpoint_is_a_subject_and_is_counted(store: Store, outcomes: Outcomes) -> None:
    subset = {setting: hits for setting, hits in outcomes.items() if setting.probe == "lowpass" or setting == CLEAN}
    all_parts = [outcome for name in ("one", "two") for outcome in parts(subset, photos(), name)]
    store_study(store, "s", photos(), all_parts)
    sixteen_set = image_set(COUNT, labels=np.zeros(COUNT), decision_space="sixteen", name="few")
    store_study(store, "few", sixteen_set, parts({CLEAN: outcomes[CLEAN]}, sixteen_set))
    assert [subject.checkpoint for subject in subjects(store, "s")] == ["one", "two"]
    for study, classes in (("s", CLASSES), ("few", 16)):
        assert {subject.classes for subject in subjects(store, study)} == {classes}, "guesses are among these"
    advances: list[float] = []
    metrics = compute_measures(store, "s", advance=advances.append)
    assert sum(advances) == pytest.approx(2)
    assert set(metrics["checkpoint"]) == {"one", "two"}


def test_a_study_without_a_complete_cell_is_named(store: Store) -> None:
    images = photos()
    store.begin_study("mine", "", [cell(images)], [images])
    with pytest.raises(UsageError, match="has no complete cell to analyze; `bandlens run` the study first"):
        compute_measures(store, "mine")


def test_people_stand_beside_models_on_labels_and_not_beside_agreement(store: Store, outcomes: Outcomes) -> None:
    labelled = image_set(COUNT, name="labelled", labels=[0] * COUNT)
    store_study(store, "labels", labelled, parts(outcomes, labelled))
    unlabelled_set = image_set(COUNT, name="alone")
    store_study(store, "agreement", unlabelled_set, parts(outcomes, unlabelled_set))
    assert store.frame("FROM human_metric").is_empty()
    compute_measures(store, "*")
    compute_measures(store, "labels")  # people are there once
    rows = store.frame("FROM human_metric ORDER BY metric, human")
    assert rows.filter(human=False).select("subject", "images").unique().rows() == [("net", "labelled")]
    assert rows.filter(human=True)["metric"].to_list() == rows.filter(human=False)["metric"].to_list()
    thresholds = "SELECT value FROM human_metric WHERE metric LIKE 'critical_threshold_%' AND human ORDER BY metric"
    assert store.frame(thresholds)["value"].to_list() == [0, 0, 0, 0, 2, 2, 0]
    [(model_width, state)] = rows.filter(metric="critical_bandwidth_raw", human=False).select("value", "state").rows()
    expected = "SELECT value, state FROM metric_of('labels') WHERE metric = 'critical_bandwidth_raw'"
    assert store.frame(expected).rows() == [(model_width, state)]
    assert store.frame("FROM human_metric_of('agreement')")["human"].all()
