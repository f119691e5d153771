"""Metrics of a study from the database are the same numbers as from the outcomes themselves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest
from made_up_results import SESSION, Images, cell, condition, image_set, model, part, store_study
from numpy.typing import NDArray

from bandlens.analysis.database.store import Store
from bandlens.analysis.measures.compute import compute_measures, metrics_of
from bandlens.analysis.measures.critical_band import (
    FREQUENCIES,
    NOISE_SDS,
    fit_band,
    integer_thresholds,
    normalized_thresholds,
)
from bandlens.analysis.measures.likelihood import LEVELS, accuracy_at
from bandlens.analysis.measures.outcomes import subjects
from bandlens.analysis.measures.psychometric import estimate_band
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
    made = {CLEAN: ease < 0.9}
    for probe, best in (("lowpass", 0.8), ("highpass", 0.3)):
        made |= {setting: ease < best * setting["cutoff"] / 0.5 for setting in SPECTRAL[probe]}
    for setting in BAND:
        sd = setting.number("noise_sd") or 0.0
        strength = sd / (0.03 * 2.0 ** abs((setting.number("frequency") or 0.0) - 3))
        made[setting] = ease < 0.85 / (1 + strength**2)
    return made


def parts(outcomes: Outcomes, images: Images, name: str = "net") -> list[Finished]:
    """Predictions that come out right where they should, against labels or the clean prediction."""
    by = model(name, classes=CLASSES)
    if images.labels is not None:
        return [part(cell(images, setting, by=by), ~right * 3, ~right * 3) for setting, right in outcomes.items()]
    return [
        part(cell(images, setting, by=by), np.zeros(COUNT) if setting == CLEAN else ~right)
        for setting, right in outcomes.items()
    ]


def labelled(clusters: NDArray[np.int64] | None = None) -> Images:
    return image_set(COUNT, labels=np.zeros(COUNT), clusters=clusters)


def value(store: Store, metric: str, study: str = "s") -> float | None:
    [(number,)] = store.frame("SELECT value FROM metric_of(?) WHERE metric = ?", [study, metric]).rows()
    return None if number is None else float(number)


def note(store: Store, metric: str) -> str | None:
    [(text,)] = store.frame("SELECT note FROM metric WHERE metric = ?", [metric]).rows()
    return None if text is None else str(text)


def state(store: Store, metric: str) -> str:
    [(text,)] = store.frame("SELECT state FROM metric WHERE metric = ?", [metric]).rows()
    return str(text)


def matrix(outcomes: Outcomes) -> NDArray[np.float64]:
    """(5, 7) percentages of right answers, by noise and frequency."""
    shares = {
        (setting.number("noise_sd"), setting.number("frequency")): 100 * outcomes[setting].mean() for setting in BAND
    }
    return np.array([[shares[sd, f if sd else None] for f in FREQUENCIES] for sd in NOISE_SDS])


def test_spectral_bias_is_the_mean_of_ratios(store: Store, outcomes: Outcomes) -> None:
    store_study(store, "s", labelled(), parts(outcomes, labelled()))
    compute_measures(store, "s")
    clean = outcomes[CLEAN].mean()
    low, high = (
        np.mean([outcomes[setting].mean() / clean for setting in SPECTRAL[f]]) for f in ("lowpass", "highpass")
    )
    assert value(store, "low_frequency_bias") == pytest.approx(low)
    assert value(store, "high_frequency_bias") == pytest.approx(high)
    assert value(store, "spectral_bias") == pytest.approx(high / (low + high))
    assert (state(store, "spectral_bias"), note(store, "spectral_bias")) == ("ok", None)


@pytest.mark.parametrize("probe", SPECTRAL)
def test_a_bias_without_the_other_has_its_interval(store: Store, outcomes: Outcomes, probe: str) -> None:
    of_probe = {setting: right for setting, right in outcomes.items() if setting == CLEAN or setting.probe == probe}
    for name, subset in (("s", outcomes), ("alone", of_probe)):
        store_study(store, name, labelled(), parts(subset, labelled()))
        compute_measures(store, name)
    query = "SELECT metric, value, low, high, state FROM metric_of(?) WHERE metric LIKE '%frequency_bias' ORDER BY ALL"
    whole, alone = ({row[0]: row[1:] for row in store.frame(query, [name]).rows()} for name in ("s", "alone"))
    bias, missing = sorted(alone, key=lambda name: name[0] != probe[0])
    assert alone[bias] == whole[bias]
    assert alone[bias][1] < alone[bias][0] < alone[bias][2]
    assert alone[missing] == (None, None, None, "missing")


def test_a_bias_of_few_images_without_the_other_says_so(store: Store, outcomes: Outcomes) -> None:
    few = {setting: right for setting, right in outcomes.items() if setting == CLEAN or setting.probe == "lowpass"}
    images = labelled(np.arange(COUNT) // 8)
    store_study(store, "s", images, parts(few, images))
    compute_measures(store, "s")
    assert state(store, "low_frequency_bias") == "no_interval"
    assert note(store, "low_frequency_bias") == "10 independent images are too few for an interval"


def test_the_published_critical_band_is_that_of_the_accuracies(store: Store, outcomes: Outcomes) -> None:
    store_study(store, "s", labelled(), parts(outcomes, labelled()))
    compute_measures(store, "s")
    percent = matrix(outcomes)
    for suffix, thresholds in (("", normalized_thresholds(percent)), ("_raw", integer_thresholds(percent))):
        band = fit_band(thresholds)
        assert band.state != "degenerate"
        assert value(store, f"critical_bandwidth{suffix}") == pytest.approx(band.bandwidth)
        assert value(store, f"critical_center_frequency{suffix}") == pytest.approx(band.center_frequency)
        assert value(store, f"critical_peak_noise_sensitivity{suffix}") == pytest.approx(band.peak_noise_sensitivity)
        kept = [value(store, f"critical_threshold_{f}{suffix}") for f in FREQUENCIES]
        assert kept == list(thresholds)
        assert state(store, f"critical_bandwidth{suffix}") == band.state


@pytest.mark.parametrize("crops", [1, 2])
def test_the_psychometric_fit_sees_every_image_and_cluster(store: Store, outcomes: Outcomes, crops: int) -> None:
    clusters = np.arange(COUNT) // crops
    images = labelled(clusters)
    store_study(store, "s", images, parts(outcomes, images))
    compute_measures(store, "s")
    correct = np.stack([outcomes[setting] for setting in BAND])
    band = estimate_band(correct, clusters, floor=1 / CLASSES)
    columns = ("value", "low", "high", "state", "note")
    rows = store.frame(f"SELECT metric, {', '.join(columns)} FROM metric WHERE metric LIKE 'psychometric%'").rows()
    assert {row[0]: row[1:] for row in rows} == {
        f"psychometric_{name}": tuple(estimate.row()[column] for column in columns) for name, estimate in band.items()
    }
    assert len(rows) == 10


def test_levels_and_octaves_that_are_there_make_the_psychometric_fit(store: Store, outcomes: Outcomes) -> None:
    """The published estimator lacks its conditions, and says so; an octave with one level has no threshold."""
    grid = [setting for setting in BAND if setting.number("noise_sd") != 0.04 and setting.number("frequency") != 6][:-2]
    images = labelled()
    store_study(store, "s", images, parts({setting: outcomes[setting] for setting in (CLEAN, *grid)}, images))
    compute_measures(store, "s")
    assert state(store, "critical_bandwidth") == "missing"
    settings = [(setting.number("noise_sd"), setting.number("frequency")) for setting in grid]
    correct = np.stack([outcomes[setting] for setting in grid])
    band = estimate_band(correct, settings=settings, floor=1 / CLASSES)
    rows = store.frame("SELECT metric, value FROM metric WHERE metric LIKE 'psychometric%'").rows()
    assert dict(rows) == {f"psychometric_{name}": estimate.row()["value"] for name, estimate in band.items()}
    assert {f for f in range(7) if f"psychometric_threshold_{f}" in dict(rows)} == {0, 1, 2, 3, 4}


def test_levels_beside_the_published_ones_change_nothing_of_the_published_estimator(
    store: Store, outcomes: Outcomes
) -> None:
    images = labelled()
    store_study(store, "s", images, parts(outcomes, images))
    more = {condition("critical_band", noise_sd=0.3, frequency=f, draw="shared"): outcomes[CLEAN] for f in FREQUENCIES}
    store_study(store, "more", images, parts({**outcomes, **more}, images))
    published = [
        metrics_of(compute_measures(store, name)).filter(pl.col("metric").str.starts_with("critical_"))
        for name in ("s", "more")
    ]
    assert published[0]["value"].to_list() == published[1]["value"].to_list()
    assert len(published[0]) == 20


def test_thresholds_of_sixteen_classes_are_right_and_their_intervals_hold(store: Store) -> None:
    """Observers of the entry-level classes are simulated: what a blind guess gets right is 1/16, not 1/1000."""
    rng, count, sensitivity = np.random.default_rng(16), 2500, 2.4 * np.exp(-((np.arange(7) - 3.3) ** 2) / 5)
    images = image_set(count, labels=np.zeros(count), decision_space="sixteen")
    truth = {
        f: accuracy_at(LEVELS, np.array([s]), np.array([3.0]), np.array([0.5]), np.array([1 / 16]))
        for f, s in enumerate(sensitivity)
    }
    made = []
    for name in ("a", "b", "c", "d"):
        for setting in (CLEAN, *BAND):
            sd, frequency = setting.number("noise_sd"), setting.number("frequency")
            share = truth[int(frequency or 0)][NOISE_SDS.index(sd) - 1] if sd else 0.5
            wrong = rng.random(count) > share
            made.append(part(cell(images, setting, by=model(name, classes=1000)), wrong * 3, wrong * 3))
    store_study(store, "s", images, made)
    compute_measures(store, "s")
    thresholds = store.frame(
        "SELECT right(metric, 1)::INTEGER AS f, value, low, high FROM metric "
        "WHERE metric LIKE 'psychometric_threshold_%'"
    ).to_numpy()
    true = 0.16 * 2.0 ** -sensitivity[thresholds[:, 0].astype(int)]
    assert len(thresholds) == 28
    assert abs(np.log2(thresholds[:, 1] / true).mean()) < 0.02
    assert ((thresholds[:, 2] <= true) & (true <= thresholds[:, 3])).mean() > 0.85


@pytest.mark.parametrize(("space", "classes"), [("all", CLASSES), ("imagenet-a", 200), ("sixteen", 16)])
def test_guessing_is_among_the_classes_of_the_decision_space(
    store: Store, outcomes: Outcomes, space: str, classes: int
) -> None:
    images = image_set(COUNT, labels=np.zeros(COUNT), decision_space=space)
    store_study(store, "s", images, parts(outcomes, images))
    assert [subject.classes for subject in subjects(store, "s")] == [classes]


def test_centre_frequencies_follow_the_size_of_the_images(store: Store, outcomes: Outcomes) -> None:
    large = image_set(COUNT, labels=np.zeros(COUNT), size=384)
    for name, images in (("s", labelled()), ("large", large)):
        store_study(store, name, images, parts(outcomes, images))
        compute_measures(store, name)
    for metric in ("critical_center_frequency", "psychometric_center_frequency"):
        assert value(store, metric, "large") == pytest.approx((value(store, metric, "s") or 0) * 384 / 224)
    for metric in ("critical_bandwidth", "psychometric_bandwidth", "spectral_bias"):
        assert value(store, metric, "large") == value(store, metric, "s")


def test_agreement_is_measured_where_there_are_no_labels(store: Store, outcomes: Outcomes) -> None:
    images = image_set(COUNT)
    store_study(store, "s", images, parts(outcomes, images))
    compute_measures(store, "s")
    low, high = (np.mean([outcomes[setting].mean() for setting in SPECTRAL[f]]) for f in ("lowpass", "highpass"))
    assert value(store, "low_frequency_bias") == pytest.approx(low)
    assert value(store, "spectral_bias") == pytest.approx(high / (low + high))
    band = estimate_band(np.stack([outcomes[setting] for setting in BAND]), floor=0.0)
    assert value(store, "psychometric_center_frequency") == pytest.approx(band["center_frequency"].value)


def test_without_a_clean_prediction_there_is_no_agreement(store: Store, outcomes: Outcomes) -> None:
    images = image_set(COUNT)
    clean, *perturbed = parts(outcomes, images)
    store.begin_study("s", "", [part.cell for part in (clean, *perturbed)], [images])
    store.commit([Failed(clean.cell, "boom"), *perturbed], {clean.cell.variant: SESSION})
    compute_measures(store, "s")
    assert value(store, "critical_bandwidth") is None
    assert note(store, "critical_bandwidth") == "no clean prediction to agree with"
    assert state(store, "critical_bandwidth") == "missing"
    assert value(store, "spectral_bias") is None
    assert state(store, "spectral_bias") == "undetermined"
    assert "no ratio to clean accuracy" in (note(store, "spectral_bias") or "")


def test_missing_conditions_are_named(store: Store, outcomes: Outcomes) -> None:
    gone = {SPECTRAL["lowpass"][1], BAND[5]}
    subset = {setting: right for setting, right in outcomes.items() if setting not in gone}
    store_study(store, "s", labelled(), parts(subset, labelled()))
    compute_measures(store, "s")
    assert value(store, "low_frequency_bias") is None
    assert note(store, "low_frequency_bias") == "lowpass lacks the cutoff 0.2"
    assert value(store, "high_frequency_bias") is not None
    assert {state(store, metric) for metric in ("low_frequency_bias", "spectral_bias", "critical_bandwidth")} == {
        "missing"
    }
    assert state(store, "high_frequency_bias") == "ok"
    assert value(store, "critical_bandwidth") is None
    assert note(store, "critical_bandwidth") == (
        "critical_band lacks noise_sd 0.02 at frequency 1; the published estimator takes its 29 conditions, each once"
    )


def test_nothing_right_without_noise_is_said(store: Store, outcomes: Outcomes) -> None:
    wrong = {setting: np.zeros(COUNT, bool) for setting in outcomes}
    store_study(store, "s", labelled(), parts(wrong, labelled()))
    compute_measures(store, "s")
    assert note(store, "critical_bandwidth") == "nothing is right without noise"
    assert {state(store, metric) for metric in ("critical_bandwidth", "spectral_bias")} == {"undetermined"}
    assert state(store, "critical_bandwidth_raw") == "degenerate"
    assert "is no more than twice that of a blind guess" in (note(store, "psychometric_bandwidth") or "")
    assert {state(store, metric) for metric in ("psychometric_bandwidth", "psychometric_threshold_0")} == {"at_chance"}
    assert value(store, "spectral_bias") is None


def test_a_published_critical_band_at_chance_says_so(store: Store, outcomes: Outcomes) -> None:
    """Half of any accuracy between two classes is no more than that of a blind guess."""
    by = model(classes=2)
    store_study(store, "s", labelled(), [part(cell(labelled(), s, by=by), ~r * 1, ~r * 1) for s, r in outcomes.items()])
    compute_measures(store, "s")
    states = store.frame("SELECT DISTINCT state FROM metric WHERE metric LIKE 'critical_%'")["state"].to_list()
    assert states == ["at_chance"]
    assert "is no more than twice that of a blind guess, 0.5" in (note(store, "critical_bandwidth") or "")


def test_a_study_without_critical_bands_has_none(store: Store, outcomes: Outcomes) -> None:
    subset = {setting: right for setting, right in outcomes.items() if setting.probe != "critical_band"}
    store_study(store, "s", labelled(), parts(subset, labelled()))
    compute_measures(store, "s")
    assert store.frame("SELECT metric FROM metric ORDER BY ALL")["metric"].to_list() == [
        "high_frequency_bias", "highpass_half_cut", "low_frequency_bias", "lowpass_half_cut", "spectral_bias"
    ]  # fmt: skip


def test_sets_that_were_only_run_clean_have_no_spectral_or_band_metrics(store: Store, outcomes: Outcomes) -> None:
    renditions = image_set(COUNT, labels=np.zeros(COUNT), name="other", benchmark="imagenet-r")
    by = model(classes=CLASSES)
    clean = part(cell(renditions, by=by), ~outcomes[CLEAN] * 3, ~outcomes[CLEAN] * 3)
    store_study(store, "s", [labelled(), renditions], [*parts(outcomes, labelled()), clean])
    compute_measures(store, "s")
    assert store.frame("SELECT DISTINCT image_set FROM metric ORDER BY ALL").rows() == [("set",), (None,)]
    general = store.frame("SELECT metric FROM metric WHERE image_set IS NULL ORDER BY ALL")["metric"].to_list()
    assert general == ["Concepts", "top1_imagenet-r"]


def test_analyzing_again_replaces_what_was_there_and_leaves_other_studies_alone(
    store: Store, outcomes: Outcomes
) -> None:
    subset = {setting: right for setting, right in outcomes.items() if setting.probe != "critical_band"}
    store_study(store, "s", labelled(), parts(subset, labelled()))
    better = subset | dict.fromkeys(SPECTRAL["lowpass"], subset[CLEAN])
    store_study(store, "other", labelled(), parts(better, labelled(), "better"))
    compute_measures(store, "*")
    before = store.frame("FROM metric ORDER BY ALL").rows()
    compute_measures(store, "s")
    assert store.frame("FROM metric ORDER BY ALL").rows() == before
    assert value(store, "low_frequency_bias", "other") == pytest.approx(1.0)
    assert value(store, "low_frequency_bias", "s") != pytest.approx(1.0)


def test_the_view_shows_the_newest_version_and_the_macro_any(store: Store, outcomes: Outcomes) -> None:
    subset = {setting: right for setting, right in outcomes.items() if setting.probe != "critical_band"}
    store_study(store, "s", labelled(), parts(subset, labelled()))
    compute_measures(store, "s")
    first = value(store, "spectral_bias")
    fewer = {setting: right for setting, right in subset.items() if setting.probe != "highpass"}
    store_study(store, "s", labelled(), parts(fewer, labelled()))
    assert store.frame("FROM metric").is_empty(), "the new version is not analyzed yet"
    assert value(store, "spectral_bias", "s@1") == first
    compute_measures(store, "s")
    assert value(store, "spectral_bias") is None
    compute_measures(store, "s@1")
    assert value(store, "spectral_bias", "s@1") == first


def test_every_checkpoint_is_a_subject_and_is_counted(store: Store, outcomes: Outcomes) -> None:
    subset = {setting: right for setting, right in outcomes.items() if setting.probe == "lowpass" or setting == CLEAN}
    made = [outcome for name in ("one", "two") for outcome in parts(subset, labelled(), name)]
    store_study(store, "s", labelled(), made)
    assert [subject.checkpoint for subject in subjects(store, "s")] == ["one", "two"]
    advanced: list[float] = []
    metrics = metrics_of(compute_measures(store, "*", advance=advanced.append))
    assert sum(advanced) == pytest.approx(2)
    assert set(metrics["checkpoint"]) == {"one", "two"}


def test_a_study_that_is_not_there_is_named(store: Store, outcomes: Outcomes) -> None:
    with pytest.raises(UsageError, match="has no complete cell to analyze"):
        compute_measures(store, "*")
    images = labelled()
    store.begin_study("mine", "", [cell(images)], [images])
    with pytest.raises(UsageError, match="unknown study 'mien'; did you mean mine"):
        compute_measures(store, "mien")
    with pytest.raises(UsageError, match="has no complete cell to analyze; `bandlens run` the study first"):
        compute_measures(store, "mine")


def test_people_stand_beside_models_on_labels_and_not_beside_agreement(store: Store, outcomes: Outcomes) -> None:
    labelled = image_set(COUNT, name="labelled", labels=[0] * COUNT)
    store_study(store, "labels", labelled, parts(outcomes, labelled))
    alone = image_set(COUNT, name="alone")
    store_study(store, "agreement", alone, parts(outcomes, alone))
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
