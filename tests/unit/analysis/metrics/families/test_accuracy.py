"""Metrics of every condition agree with the views, the metrics of the clean cells, and formulas written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from made_up_results import SESSION, Images, cell, condition, image_set, model, part, store_study
from pairs_of_observers import kappa

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.families.calibration import calibration_gaps
from bandlens.core.records import Failed, Finished

COUNT = 300
SETTINGS = (condition(), condition("lowpass", cutoff=0.1), condition("lowpass", cutoff=0.5), condition("blur", sigma=2))


def simulate_cells(images: Images, seed: int = 0, name: str = "net") -> list[Finished]:
    """Predictions of 10 classes that are right three, two, or one time in four, the same images again and again."""
    rng = np.random.default_rng(seed)
    count = images.info.count
    labels = np.zeros(count, int) if images.labels is None else images.labels
    ease = rng.random(count)
    parts = []
    for setting, share in zip(SETTINGS, (0.75, 0.25, 0.5, 0.4), strict=True):
        hits = ease + rng.normal(0, 0.1, count) < share
        predicted = np.where(hits, labels, rng.integers(0, 10, count))
        rank = None if images.labels is None else (predicted != labels) * 2
        sure = rng.uniform(0.1, 1, count)
        parts.append(part(cell(images, setting, by=model(name)), predicted, rank, confidence=sure))
    return parts


def store_measures(store: Store, images: Images, parts: Sequence[Finished], study: str = "s") -> None:
    """Store a study of these cells, and its measures."""
    store_study(store, study, images, parts)
    compute_measures(store, study)


def rows(store: Store, metric: str) -> dict[tuple[str, float | None], dict[str, Any]]:
    estimates = store.frame("FROM condition_metric WHERE metric = ?", [metric]).to_dicts()
    return {(row["probe"], row["cutoff"]): row for row in estimates}


def test_accuracies_and_their_intervals_are_those_of_the_views(store: Store) -> None:
    labels = np.random.default_rng(1).integers(0, 10, COUNT)
    real = [[int(label), int(label + 1) % 10] if k % 4 else [] for k, label in enumerate(labels)]
    images = image_set(COUNT, labels=labels, clusters=np.arange(COUNT) // 3, schemes={"real": real})
    store_measures(store, images, simulate_cells(images))
    query = "SELECT probe, cutoff, n, top1, low, high FROM {} ORDER BY ALL"
    for metric, view in (("accuracy", "accuracy"), ("accuracy_real", "label_accuracy WHERE scheme = 'real'")):
        estimates = [
            (*key, *(row[name] for name in ("n", "value", "low", "high"))) for key, row in rows(store, metric).items()
        ]
        expected = store.frame(query.format(view)).rows()
        assert len(estimates) == len(expected) == len(SETTINGS)
        for estimate, expected_row in zip(sorted(estimates, key=str), sorted(expected, key=str), strict=True):
            assert estimate[:3] == expected_row[:3]
            assert estimate[3:] == pytest.approx(expected_row[3:])


def test_confidence_calibration_and_consistency_with_clean_errors_are_of_the_stored_predictions(store: Store) -> None:
    images = image_set(COUNT, labels=np.zeros(COUNT))
    parts = simulate_cells(images)
    store_measures(store, images, parts)
    formulas = {
        "confidence": lambda sure, _: sure,
        "expected_calibration_error": lambda sure, hits: calibration_gaps(sure, hits)[0],
        "top1_brier_score": lambda sure, hits: (sure - hits) ** 2,
    }
    for metric, formula in formulas.items():
        estimates, values = rows(store, metric), []
        for setting, outcome in zip(SETTINGS, parts, strict=True):
            sure, hits = outcome.predictions.confidence.astype(float), outcome.predictions.predicted == 0
            values.append(formula(sure, hits).mean())
            row = estimates[setting.probe, setting.number("cutoff")]
            assert row["value"] == pytest.approx(values[-1])
            assert row["low"] < row["value"] < row["high"]
            if setting.probe != "clean":
                assert row["difference"] == pytest.approx(values[-1] - values[0])
                assert row["difference_low"] < row["difference"] < row["difference_high"]
    clean, *perturbed = (outcome.predictions.predicted == 0 for outcome in parts)
    consistencies = rows(store, "clean_error_consistency")
    assert ("clean", None) not in consistencies
    for setting, hits in zip(SETTINGS[1:], perturbed, strict=True):
        row = consistencies[setting.probe, setting.number("cutoff")]
        assert (row["value"], row["difference"]) == (pytest.approx(kappa(clean, hits)), None)
        assert row["low"] < row["value"] < row["high"]


def test_a_calibration_error_of_few_images_is_doubtful(store: Store) -> None:
    rng = np.random.default_rng(0)
    images = image_set(100, labels=np.zeros(100))
    sure = rng.uniform(0.1, 1, 100)
    errors = rng.random(100) > sure
    store_measures(store, images, [part(cell(images), errors * 1, errors * 1, confidence=sure)])
    row = rows(store, "expected_calibration_error")["clean", None]
    assert row["state"] == "doubtful"
    assert row["note"].endswith("is expected of a network that is calibrated")


def test_without_labels_predictions_are_set_against_the_clean_ones(store: Store) -> None:
    images = image_set(COUNT, clusters=np.arange(COUNT) // 3)
    store_measures(store, images, simulate_cells(images))
    assert set(store.frame("SELECT DISTINCT metric FROM condition_metric")["metric"]) == {"agreement", "confidence"}
    agreements = rows(store, "agreement")
    for probe, cutoff, top1, low, high in store.frame(
        "SELECT probe, cutoff, top1, low, high FROM accuracy WHERE probe <> 'clean'"
    ).rows():
        row = agreements[probe, cutoff]
        assert (row["value"], row["low"], row["high"]) == pytest.approx((top1, low, high))
        assert row["difference"] is None, "1 less agreement, by definition"
    assert (agreements["clean", None]["value"], agreements["clean", None]["state"]) == (1, "no_interval")
    clean = store.frame("SELECT measure, top1, top5, low, high FROM accuracy WHERE probe = 'clean'").rows()
    assert clean == [("agreement", 1, None, None, None)], "by definition, so without an interval"


def test_shape_bias_of_the_clean_images_is_the_metric_and_every_other_is_paired_with_it(store: Store) -> None:
    rng = np.random.default_rng(0)
    shape = rng.integers(0, 10, COUNT)
    texture = (shape + rng.integers(0, 4, COUNT)) % 10
    images = image_set(COUNT, labels=shape, schemes={"texture": [[int(cue)] for cue in texture]})
    answers = [np.where(rng.random(COUNT) < share, shape, texture) for share in (0.2, 0.7, 0.4, 0.5)]
    answers = [np.where(rng.random(COUNT) < 0.3, 9 - classes, classes) for classes in answers]
    parts = [
        part(cell(images, setting), classes, (classes != shape) * 1)
        for setting, classes in zip(SETTINGS, answers, strict=True)
    ]
    store_measures(store, images, parts)
    apart, biases = shape != texture, []
    for setting, classes in zip(SETTINGS, answers, strict=True):
        shapes, textures = ((classes == cue) & apart for cue in (shape, texture))
        biases.append(shapes.sum() / (shapes.sum() + textures.sum()))
        key = setting.probe, setting.number("cutoff")
        row = rows(store, "shape_bias")[key]
        assert (row["value"], row["n"]) == (pytest.approx(biases[-1]), shapes.sum() + textures.sum())
        assert rows(store, "cue_accuracy")[key]["value"] == pytest.approx((shapes | textures).sum() / apart.sum())
        if setting.probe != "clean":
            assert row["difference"] == pytest.approx(biases[-1] - biases[0])
            assert row["difference_low"] < row["difference"] < row["difference_high"]
            assert rows(store, "clean_error_consistency")[key]["n"] == apart.sum()
    for metric in ("shape_bias", "cue_accuracy"):
        row = rows(store, metric)["clean", None]
        query = "SELECT value, low, high FROM metric WHERE metric = ?"
        assert [row[name] for name in ("value", "low", "high")] == pytest.approx(store.frame(query, [metric]).row(0))
    metrics = set(store.frame("SELECT DISTINCT metric FROM condition_metric")["metric"])
    assert "expected_calibration_error" not in metrics, "neither cue is the right answer"


def test_what_is_never_named_has_no_bias_and_what_is_always_right_no_consistency(store: Store) -> None:
    images = image_set(40, labels=[0] * 40, schemes={"texture": [[1]] * 40})
    parts = [
        part(cell(images, setting), [answer] * 40, [answer] * 40)
        for setting, answer in zip(SETTINGS[:2], (0, 2), strict=True)
    ]
    store_measures(store, images, parts)
    row = rows(store, "shape_bias")["lowpass", 0.1]
    assert (row["value"], row["n"], row["state"]) == (None, 0, "undetermined")
    assert (row["difference"], row["note"]) == (None, "neither cue is ever named")
    row = rows(store, "clean_error_consistency")["lowpass", 0.1]
    assert (row["value"], row["state"]) == (None, "undetermined")


def test_models_are_consistent_with_each_other_under_every_condition(store: Store) -> None:
    """The oracle is statsmodels' kappa, on the images whose cues conflict."""
    labels, rng = np.random.default_rng(1).integers(0, 10, COUNT), np.random.default_rng(2)
    texture = np.where(rng.random(COUNT) < 0.2, labels, (labels + 1) % 10)
    images = image_set(COUNT, labels=labels, schemes={"texture": texture[:, None].tolist()})
    parts = {name: simulate_cells(images, seed, name) for seed, name in enumerate(("a", "b", "c"))}
    store_measures(store, images, [outcome for outcomes in parts.values() for outcome in outcomes])
    conflicts = texture != labels
    query = "FROM condition_metric WHERE metric = 'model_error_consistency'"
    consistencies = {(row["checkpoint"], row["probe"], row["cutoff"]): row for row in store.frame(query).to_dicts()}
    assert len(consistencies) == len(SETTINGS) * len(parts)
    for place, setting in enumerate(SETTINGS):
        hits = {name: (outcomes[place].predictions.label_rank == 0)[conflicts] for name, outcomes in parts.items()}
        for name, correct in hits.items():
            row = consistencies[name, setting.probe, setting.number("cutoff")]
            expected = np.mean([kappa(correct, hits[peer]) for peer in hits if peer != name])
            assert (row["value"], row["n"], row["state"]) == (pytest.approx(expected), conflicts.sum(), "ok")
            assert row["low"] < row["value"] < row["high"]
            if place:
                assert row["difference"] == pytest.approx(row["value"] - consistencies[name, "clean", None]["value"])
                assert row["difference_low"] < row["difference"] < row["difference_high"]
            else:
                assert row["difference"] is None


def test_a_model_alone_is_consistent_with_none_and_one_without_errors_leaves_it_undetermined(store: Store) -> None:
    images = image_set(COUNT, labels=np.zeros(COUNT))
    parts = simulate_cells(images, 0, "a")
    store_measures(store, images, parts, "alone")
    assert rows(store, "model_error_consistency") == {}
    perfect = part(cell(images, SETTINGS[1], by=model("b")), [0] * COUNT, [0] * COUNT)
    store_measures(store, images, [*parts, perfect], "both")
    [(key, row)] = rows(store, "model_error_consistency").items()
    assert key == ("lowpass", 0.1)
    assert (row["value"], row["state"], row["note"]) == (
        None,
        "undetermined",
        "all is right, or all wrong, for a model",
    )


def test_without_clean_images_nothing_is_compared(store: Store) -> None:
    images = image_set(COUNT, labels=np.zeros(COUNT))
    clean, *perturbed = simulate_cells(images)
    store.begin_study("s", "", [part.cell for part in (clean, *perturbed)], [images])
    store.commit([Failed(clean.cell, "boom"), *perturbed], {clean.cell.variant: SESSION})
    compute_measures(store, "s")
    estimates = store.frame("FROM condition_metric")
    assert set(estimates["probe"]) == {"lowpass", "blur"}
    assert estimates["difference"].is_null().all()
    assert "clean_error_consistency" not in set(estimates["metric"])


def test_means_over_benchmarks_are_those_of_the_perturbed_images(store: Store) -> None:
    rng = np.random.default_rng(0)
    sets = [
        image_set(
            50, labels=rng.integers(0, 10, 50), name=name, benchmark=name, paths=[f"{name}{k}" for k in range(50)]
        )
        for name in ("imagenet-sketch", "imagenet-r", "stylized")
    ]
    store_study(store, "s", sets, [outcome for images in sets for outcome in simulate_cells(images)])
    compute_measures(store, "s")
    means = rows(store, "Concepts")
    accuracies = store.frame("SELECT probe, cutoff, 100 * avg(top1) FROM accuracy GROUP BY ALL").rows()
    assert {key: row["value"] for key, row in means.items()} == {tuple(k): pytest.approx(v) for *k, v in accuracies}
    blurred, clean = means["lowpass", 0.1], means["clean", None]
    assert blurred["low"] < blurred["value"] < blurred["high"]
    assert blurred["difference"] == pytest.approx(blurred["value"] - clean["value"])
    columns = ("value", "low", "high", "state", "note")
    expected = store.frame(f"SELECT {', '.join(columns)} FROM metric WHERE metric = 'Concepts'").row(0)
    assert tuple(clean[name] for name in columns) == expected
