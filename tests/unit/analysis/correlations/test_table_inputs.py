"""Metrics of a study are correlated with its group means, or with clean accuracies where it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study, store_values

from bandlens.analysis.correlations.table import correlate, correlate_study
from bandlens.analysis.correlations.table_inputs import StudyTable, read_models, study_table, subsets_of
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics import registry
from bandlens.analysis.metrics.families.critical_band import fit_band
from bandlens.core.protocol import BIAS_CUTOFFS

BIASES = ["low_frequency_bias", "critical_bandwidth", "critical_bandwidth_raw"]
CUES = ["shape_bias", "shape_bias_bear", "cue_accuracy"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Six models on three labelled sets."""
    with open_store(tmp_path / "results.duckdb") as store:
        sets = [image_set(10, name=name, labels=[0] * 10, benchmark=name) for name in ("imagenet", "conflict", "other")]
        ranks = {f"net{k}": [0] * (k + 2) + [1] * (8 - k) for k in range(6)}
        parts = [part(cell(images, by=model(net)), rank, rank) for net, rank in ranks.items() for images in sets]
        store_study(store, "s", sets, parts)
        yield store


def measure(store: Store, metrics_by_set: Mapping[str | None, list[str]], unknown: tuple[str, ...] = ()) -> StudyTable:
    """The table of made-up metrics by image set; those in `unknown` have no value."""
    ids = store.frame("SELECT DISTINCT study_id, checkpoint_id, checkpoint, image_set_id, image_set FROM study_detail")
    rows = []
    for images, metrics in metrics_by_set.items():
        fitting = ids.filter(image_set="imagenet" if images is None else images).sort("checkpoint")
        if images is None:
            fitting = fitting.with_columns(image_set_id=pl.lit(None, pl.Int32))
        for at, metric in enumerate(metrics):
            values = [None if metric in unknown else float((k + at) % 6) for k in range(6)]
            rows.append(fitting.with_columns(pl.Series("value", values, pl.Float64), metric=pl.lit(metric)))
    store_values(store, pl.concat(rows).with_columns(low="value", high="value"))
    return study_table(store, "s@1")


def test_group_means_are_what_biases_are_correlated_with(store: Store) -> None:
    groups = ["top1_imagenet", "ID", "Robustness", "Adversarial"]
    table = measure(store, {"imagenet": BIASES, "conflict": CUES, None: groups}, unknown=("Robustness",))
    assert table.biases == ["critical_bandwidth", "low_frequency_bias", "shape_bias"]
    assert table.groups == ["Adversarial", "ID"]
    assert table.control == "ID"
    rows = correlate(table.frame, table.biases, table.groups, subsets_of(table.frame), resamples=100)
    assert rows["coefficient"].null_count() == 0


def test_without_group_means_it_is_the_clean_accuracy_of_each_set(store: Store) -> None:
    table = measure(store, {"imagenet": BIASES, None: ["top1_imagenet", "ID"]}, unknown=("ID",))
    assert table.biases == ["critical_bandwidth", "low_frequency_bias"]
    assert table.groups == ["top1 conflict", "top1 imagenet", "top1 other"]
    assert table.control == "top1 imagenet"
    assert table.frame["top1 other"].to_list() == pytest.approx([20, 30, 40, 50, 60, 70])


def test_a_metric_of_several_sets_is_told_apart_by_their_names(store: Store) -> None:
    table = measure(store, {"imagenet": BIASES, "other": BIASES[:1], "conflict": CUES})
    assert table.biases == [
        "critical_bandwidth",
        "low_frequency_bias (imagenet)",
        "low_frequency_bias (other)",
        "shape_bias",
    ]


def test_a_degenerate_fit_is_no_value(store: Store) -> None:
    """Equal thresholds are fitted by any bell that is wide enough."""
    flat = fit_band([4] * 7)["bandwidth"]
    assert flat.value > 10_000
    measure(store, {"imagenet": BIASES})
    fitted = "metric = 'critical_bandwidth' AND checkpoint = (SELECT id FROM checkpoint ORDER BY id LIMIT 1)"
    store.execute(f"UPDATE measure_value SET value = ?, state = ? WHERE {fitted}", [flat.value, flat.state])
    table = study_table(store, "s@1")
    rows = correlate(table.frame, table.biases, ["top1 other"], subsets_of(table.frame), resamples=100)
    assert rows.select("bias", "n").rows() == [("low_frequency_bias", 6), ("critical_bandwidth", 5)]
    assert rows["note"][1].startswith("1 of 6 models lack a value")
    assert table.frame["critical_bandwidth_low"].null_count() == 1


def test_accuracies_of_models_that_saw_the_same_images_err_together(store: Store) -> None:
    table = measure(store, {"imagenet": BIASES})
    assert set(table.errors) == {"top1 conflict", "top1 imagenet", "top1 other"}
    assert table.errors["top1 other"]["net3"].value == pytest.approx(0.5)
    shared = read_models(table.frame, table.biases, table.groups, table.control, table.errors).shared
    assert shared is not None
    assert not shared[: len(table.biases)].any(), "biases are drawn on their own"
    factors = shared[len(table.biases) + table.groups.index("top1 other")]
    hits = np.arange(10)[None] < np.arange(2, 8)[:, None]
    assert factors @ factors.T == pytest.approx(np.corrcoef(hits), abs=1e-5)
    nine = pl.concat([table.frame, table.frame.head(3)])
    joint, marginal = (
        correlate(nine, table.biases, ["top1 other"], subsets_of(nine), resamples=400, errors=errors)
        for errors in (table.errors, None)
    )
    assert not joint.equals(marginal)
    assert joint.drop("low_images", "high_images", "note").equals(marginal.drop("low_images", "high_images", "note"))


def test_untrained_networks_have_no_correlation_of_biases(tmp_path: Path) -> None:
    """Each names the same class for every image, so that every accuracy is chance and every ratio 1."""
    images, parts = image_set(140, labels=[k % 7 for k in range(140)]), []
    filters = [condition(probe, cutoff=c) for probe in ("lowpass", "highpass") for c in BIAS_CUTOFFS]
    for net in range(6):
        for setting in (condition(), *filters):
            predicted = np.full(140, (net + len(parts)) % 7)
            rank = (predicted != np.arange(140) % 7).astype(int)
            parts.append(part(cell(images, setting, by=model(f"net{net}", classes=7)), predicted, rank))
    with open_store(database_of(tmp_path, images, parts, measured=True)) as store:
        table = correlate_study(study_table(store, "s@1"), resamples=100)
    assert set(table["bias"]) == {measure.name for measure in registry.GRID_MEASURES if measure.display.stands_for}
    assert table["n"].to_list() == [0] * len(table)
    assert table["coefficient"].is_null().all()


def test_a_ratio_to_clean_accuracy_or_a_part_of_it_is_named_where_it_is_set_against_it(store: Store) -> None:
    table = correlate_study(measure(store, {"imagenet": [*BIASES, "octave_share_3"], "conflict": CUES}), resamples=100)
    notes = {(bias, group): note or "" for bias, group, note in table.select("bias", "group", "note").rows()}
    ties = {pair for pair, note in notes.items() if " clean accuracy, which is part of" in note}
    assert ties == {("low_frequency_bias", "top1 imagenet"), ("octave_share_3", "top1 imagenet")}
    assert "is one of the shares that add up to clean" in notes["octave_share_3", "top1 imagenet"]
    assert set(table.filter("shares_term").select("bias", "group").rows()) == ties
