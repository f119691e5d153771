"""Two runs are compared with each other, in one database and in two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, database_of, image_set, model, part, store_study, store_values
from pairs_of_observers import kappa
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar

from bandlens.analysis.comparison.cell_pairs import Run, compare_cells, two_of
from bandlens.analysis.comparison.metric_pairs import compare_measures
from bandlens.analysis.comparison.runs import compare_runs
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.statistics.coefficients import holm
from bandlens.core.errors import UsageError
from bandlens.core.protocol import BIAS_CUTOFFS
from bandlens.core.records import Condition, Finished

N = 120
CLEAN, LOW, HIGH = condition(), condition("lowpass", cutoff=0.5), condition("highpass", cutoff=0.5)


def reimplement(setting: Condition) -> Condition:
    """The same probe and parameters, implemented anew."""
    return Condition(setting.probe, setting.parameters, setting.digest[::-1])


def outcome(images: Images, setting: Condition, seed: int, error_rate: float = 0.3, **keys) -> Finished:
    """Random ranks; predicted is the rank, so that it differs where the rank does."""
    rank = (np.random.default_rng(seed).random(images.info.count) < error_rate).astype(int)
    labelled = images.labels is not None
    return part(cell(images, setting, **keys), rank, rank if labelled else None)


@pytest.fixture
def images() -> Images:
    return image_set(N, labels=[0] * N)


@pytest.fixture
def store_b(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "b.duckdb") as store:
        yield store


def two_versions(store: Store, images: Images) -> tuple[Run, Run]:
    """Low-pass is implemented anew, high-pass only in the first, another cutoff only in the second."""
    clean = outcome(images, CLEAN, 0)
    store_study(store, "s", images, [clean, outcome(images, LOW, 1), outcome(images, HIGH, 2)])
    new_cutoff = outcome(images, condition("lowpass", cutoff=0.1), 3)
    store_study(store, "s", images, [clean, outcome(images, reimplement(LOW), 4, 0.6), new_cutoff])
    return Run(store, "s@1"), Run(store, "s@2")


def test_versions_in_one_database_are_compared_where_they_are_not_one_and_the_same(
    store: Store, images: Images
) -> None:
    a, b = two_versions(store, images)
    comparison = compare_cells(a, b)
    assert comparison.same == 1
    assert comparison.only_a.rows() == [("net", "set", "highpass", '{"cutoff": 0.5}', 56)]
    assert comparison.only_b.rows() == [("net", "set", "lowpass", '{"cutoff": 0.1}', 11)]
    [row] = comparison.cells.rows(named=True)
    assert (row["probe"], row["differs_in"], row["n"]) == ("lowpass", "implementation of the probe", N)
    right_a, right_b = (
        outcome(images, LOW, seed, error_rate).predictions.label_rank == 0 for seed, error_rate in ((1, 0.3), (4, 0.6))
    )
    losses, gains = (right_a & ~right_b).sum(), (right_b & ~right_a).sum()
    assert (row["lost"], row["gained"], row["changed"]) == (losses, gains, losses + gains)
    assert row["difference"] == pytest.approx((gains - losses) / N)
    assert row["difference"] == pytest.approx(row["top1_b"] - row["top1_a"])
    assert row["low"] < row["difference"] < row["high"] < 0
    assert row["p"] == pytest.approx(mcnemar([[0, losses], [gains, 0]], exact=False).pvalue, abs=1e-10)
    assert row["p_holm"] == row["p_bh"] == row["p"]
    error = (row["high"] - row["low"]) / (2 * norm.ppf(0.975))
    assert row["detectable"] == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * error + 1 / N)
    assert row["kappa"] == pytest.approx(kappa(right_a, right_b))


def test_two_databases_are_compared_image_by_image(store: Store, store_b: Store, images: Images) -> None:
    parts = [outcome(images, setting, 1) for setting in (CLEAN, LOW, HIGH)]
    store_study(store, "s", images, parts)
    precise = [outcome(images, setting, 1, precision="int8") for setting in (CLEAN, LOW)]
    store_study(store_b, "t", images, [*precise, outcome(images, HIGH, 7)])
    advances: list[float] = []
    comparison = compare_cells(Run(store, "s@1"), Run(store_b, "t@1"), advances.append)
    assert sum(advances) == 3
    assert comparison.same == 0
    cells = {row["probe"]: row for row in comparison.cells.rows(named=True)}
    assert cells["lowpass"]["differs_in"] == "precision"
    assert cells["lowpass"]["changed"] == cells["lowpass"]["lost"] == 0
    assert cells["lowpass"]["p"] == 1
    assert cells["highpass"]["differs_in"] is None  # the same computation, another result
    assert cells["highpass"]["changed"] > 0
    p = comparison.cells["p"].to_numpy()
    assert comparison.cells["p_holm"].to_list() == pytest.approx(holm(p).tolist())


def test_image_sets_that_differ_are_compared_on_the_images_they_share(store: Store, store_b: Store) -> None:
    first, second = image_set(30, labels=[0] * 30), image_set(20, labels=[0] * 20)
    rank = np.arange(30) % 2
    store_study(store, "s", first, [part(cell(first), rank, rank)])
    reversed_paths = Images(second.info, second.paths[::-1], second.labels, second.clusters)
    store_study(store_b, "s", reversed_paths, [part(cell(second), rank[:20][::-1], rank[:20][::-1])])
    [row] = compare_cells(Run(store, "s@1"), Run(store_b, "s@1")).cells.rows(named=True)
    assert (row["n"], row["changed"], row["differs_in"]) == (20, 0, "images or labels")
    elsewhere = Images(second.info, [f"x{path}" for path in second.paths], second.labels, second.clusters)
    parts = [part(cell(second), rank[:20], rank[:20])]
    with open_store(database_of(store_b.path.parent, elsewhere, parts, file="c.duckdb")) as third:
        [row] = compare_cells(Run(store, "s@1"), Run(third, "s@1")).cells.rows(named=True)
    assert (row["n"], row["note"], row["difference"], row["p"]) == (0, "no image in common", None, None)


def test_sets_whose_labels_differ_are_refused(store: Store, store_b: Store) -> None:
    first, second = image_set(30, labels=[0] * 30), image_set(20, labels=[0, 0, 0, 3, 0, 4, *[0] * 14])
    for database, images in ((store, first), (store_b, second)):
        store_study(database, "s", images, [part(cell(images), [0] * images.info.count, [0] * images.info.count)])
    message = (
        r"^image set set: 3.png has label 0 in A and 3 in B, the first of 2 of 20 images in common whose labels "
        "differ; pack both with the same labels$"
    )
    with pytest.raises(UsageError, match=message):
        compare_runs(Run(store, "s@1"), Run(store_b, "s@1"))


@pytest.mark.parametrize(("classes", "refused"), [([2, 9], True), ([2], False)])
def test_sets_whose_images_have_other_further_classes_are_refused(
    classes: list[int], refused: bool, store: Store, store_b: Store
) -> None:
    first, second = image_set(3, labels=[2] * 3), image_set(3, labels=[2] * 3, schemes={"several": [classes] * 3})
    for database, images in ((store, first), (store_b, second)):
        store_study(database, "s", images, [part(cell(images), [2] * 3, [0] * 3)])
    message = "0.png has label 2 in A and 2;9 in B, the first of 3 of 3 images in common"
    with pytest.raises(UsageError, match=message) if refused else nullcontext():
        compare_runs(Run(store, "s@1"), Run(store_b, "s@1"))


def test_labels_of_two_decision_spaces_are_not_the_same_classes(store: Store, store_b: Store) -> None:
    first, second = image_set(5, labels=[0] * 5), image_set(5, labels=[3] * 5, decision_space="sixteen")
    for database, images in ((store, first), (store_b, second)):
        store_study(database, "s", images, [part(cell(images), [0] * 5, [0] * 5)])
    [row] = compare_cells(Run(store, "s@1"), Run(store_b, "s@1")).cells.rows(named=True)
    assert row["differs_in"] == "images or labels, decision space"
    assert row["difference"] == 0


def test_without_labels_agreement_is_compared_and_clean_predictions_agree_by_definition(
    store: Store, store_b: Store
) -> None:
    images = image_set(N, clusters=np.arange(N) // 4)
    store_study(store, "s", images, [outcome(images, CLEAN, 0, 0.0), outcome(images, LOW, 1)])
    store_study(store_b, "s", images, [outcome(images, CLEAN, 0, 0.1), outcome(images, LOW, 1)])
    clean, low = compare_cells(Run(store, "s@1"), Run(store_b, "s@1")).cells.rows(named=True)
    assert clean["note"] == "agrees with itself by definition"
    assert clean["p"] is None
    assert clean["changed"] > 0  # another prediction, all the same
    assert low["changed"] == 0
    assert low["lost"] > 0  # it agrees with another reference
    accuracy = [s.frame("SELECT top1 FROM accuracy WHERE probe = 'lowpass'").item() for s in (store, store_b)]
    assert [low["top1_a"], low["top1_b"]] == pytest.approx(accuracy)


def test_agreements_that_are_both_at_their_floor_do_not_differ(store: Store) -> None:
    """Under the filter, A says the class that it says mostly of clean images, and B one that it says rarely."""
    rng, images = np.random.default_rng(0), image_set(100)
    clean, kept = rng.choice(4, 100, p=[0.6, 0.3, 0.05, 0.05]), rng.random(100) < 0.3
    answers = {"a": np.zeros(100), "b": np.full(100, 2), "c": np.where(kept, clean, 2)}
    parts = [
        part(cell(images, setting, by=model(name)), decided)
        for name, filtered in answers.items()
        for setting, decided in ((CLEAN, clean), (LOW, filtered))
    ]
    run = Run(store, store_study(store, "s", images, parts))
    for name, at_floor in (("b", True), ("c", False)):
        _, low = compare_cells(*two_of(run, run, "checkpoint", "a", name)).cells.rows(named=True)
        assert low["difference"] < -0.1
        assert (low["p"] is None) == (low["note"] is not None) == at_floor


def test_labels_in_one_run_only_cannot_be_compared(store: Store, store_b: Store) -> None:
    with_labels, no_labels = image_set(N, labels=[0] * N), image_set(N)
    store_study(store, "s", with_labels, [outcome(with_labels, CLEAN, 0)])
    store_study(store_b, "s", no_labels, [outcome(no_labels, CLEAN, 0), outcome(no_labels, LOW, 0)])
    [row] = compare_cells(Run(store, "s@1"), Run(store_b, "s@1")).cells.rows(named=True)
    assert row["note"] == "only one of the runs has labels"
    assert row["changed"] == 0


def metrics(
    run: Run, values: dict[str, tuple[float | None, float | None, float | None]], several_sets: bool = False
) -> None:
    ids = run.store.frame("SELECT study_id FROM study_version WHERE label = ?", [run.label]).item()
    checkpoint, images = run.store.frame("SELECT checkpoint_id, image_set_id FROM cell_detail LIMIT 1").row(0)
    rows = [
        {"metric": name, "value": value, "low": low, "high": high}
        | ({"state": "ok", "note": None} if value else {"state": "undetermined", "note": "why"})
        for name, (value, low, high) in values.items()
    ]
    names = {"study_id": ids, "checkpoint_id": checkpoint, "image_set_id": None if several_sets else images}
    store_values(run.store, pl.DataFrame(rows).with_columns(pl.lit(value).alias(name) for name, value in names.items()))


def test_metrics_that_moved_have_an_interval_where_both_values_do(store: Store, images: Images) -> None:
    a, b = two_versions(store, images)
    metrics(a, {"u": (1.0, 0.7, 1.4), "v": (2.0, None, None), "w": (3.0, 2.0, 4.0), "x": (1.0, None, None)})
    metrics(b, {"u": (2.0, 1.6, 2.3), "v": (2.5, None, None), "w": (3.0, 2.0, 4.0), "x": (None, None, None)})
    differences = {row["metric"]: row for row in compare_measures(a, b)[0].rows(named=True)}
    assert differences["u"]["difference"] == 1
    assert differences["u"]["low"] == pytest.approx(1 - np.hypot(0.4, 0.4))
    assert differences["u"]["high"] == pytest.approx(1 + np.hypot(0.3, 0.3))
    width = np.hypot(0.4, 0.4) + np.hypot(0.3, 0.3)
    assert differences["u"]["detectable"] == pytest.approx((1 + 0.842 / 1.96) * width / 2, rel=1e-3)
    assert [differences["v"][name] for name in ("difference", "low", "detectable")] == [0.5, None, None]
    assert differences["x"]["note"] == "B: why"
    assert (differences["x"]["state_a"], differences["x"]["state_b"]) == ("ok", "undetermined")


STATES = ("state_a", "state_b")


def test_chance_explains_what_has_zero_in_its_interval_and_the_same_state(store: Store, images: Images) -> None:
    a, b = two_versions(store, images)
    points = {"equal": (3.0, None, None), "lost": (1.0, None, None), "without": (3.0, None, None)}
    metrics(a, points | {"above": (1.0, 0.7, 1.4), "within": (2.0, 1.0, 3.0)})
    points |= {"lost": (None, None, None), "without": (3.5, None, None)}
    metrics(b, points | {"above": (2.0, 1.6, 2.3), "within": (2.1, 1.1, 3.1)})
    comparison = compare_runs(a, b)
    assert repr(comparison).splitlines()[1:] == comparison.verdict.sentences
    assert comparison.beyond_chance().metrics["metric"].to_list() == ["above", "lost", "without"]
    another = pl.when(metric="equal").then(pl.lit("doubtful")).otherwise("state_b")
    with_state = replace(comparison, metrics=comparison.metrics.with_columns(state_b=another))
    assert with_state.beyond_chance().metrics["metric"].to_list() == ["above", "equal", "lost", "without"]
    chance = [pl.when(metric="above").then(pl.lit("at_chance")).otherwise(name).alias(name) for name in STATES]
    at_chance = replace(comparison, metrics=comparison.metrics.with_columns(chance))
    assert at_chance.beyond_chance().metrics["metric"].to_list() == ["lost", "without"]
    assert comparison.strongest(3).metrics["metric"].to_list() == ["above", "within", "equal"]


def test_cells_that_chance_explains_are_those_without_a_finding(store: Store, store_b: Store, images: Images) -> None:
    settings = [condition("lowpass", cutoff=0.1), condition("lowpass", cutoff=0.9), HIGH]
    for run, shares in ((store, (0.3, 0.3, 0.3)), (store_b, (0.3, 0.9, 0.31))):
        parts = [outcome(images, setting, 5, share) for setting, share in zip(settings, shares, strict=True)]
        store_study(run, "s", images, parts)
    beyond = compare_runs(Run(store, "s@1"), Run(store_b, "s@1")).beyond_chance()
    assert beyond.cells.select("probe", "parameters").rows() == [("lowpass", '{"cutoff": 0.9}')]


def test_means_over_several_image_sets_are_compared_too(store: Store, images: Images) -> None:
    a, b = two_versions(store, images)
    metrics(a, {"ID": (70.0, 69.0, 71.0), "Concepts": (None, None, None)}, several_sets=True)
    metrics(b, {"ID": (72.0, 71.0, 73.0), "Concepts": (35.0, 34.0, 36.0)}, several_sets=True)
    rows = compare_measures(a, b)[0].select("image_set", "metric", "difference", "low", "high", "note").rows()
    half = np.hypot(1, 1)
    assert rows == [(None, "Concepts", None, None, None, "A: why"), (None, "ID", 2.0, 2 - half, 2 + half, None)]


def test_metrics_of_two_versions_are_paired_over_their_images(store: Store, images: Images) -> None:
    """One answer in a hundred is drawn again: as of independent images, the interval would be far wider."""
    rng, clean = np.random.default_rng(0), outcome(images, CLEAN, 0)
    parts_a, parts_b = [clean], [clean]
    for setting in (condition(probe, cutoff=cutoff) for probe in ("lowpass", "highpass") for cutoff in BIAS_CUTOFFS):
        rank = (rng.random(N) < 0.5).astype(int)
        rank_b = np.where(rng.random(N) < 0.99, rank, (rng.random(N) < 0.3).astype(int))
        parts_a.append(part(cell(images, setting), rank, rank))
        parts_b.append(part(cell(images, reimplement(setting)), rank_b, rank_b))
    a, b = (Run(store, store_study(store, "s", images, parts)) for parts in (parts_a, parts_b))
    for run in (a, b):
        compute_measures(store, run.label)
    biases = compare_measures(a, b)[0].filter(pl.col("metric").str.contains("frequency_bias|spectral"))
    assert len(biases) == 6
    for row in biases.rows(named=True):
        query = "SELECT (high - low) / 2 AS half FROM metric_of(?) WHERE metric = ?"
        halves = [store.frame(query, [run.label, row["metric"]]).item() for run in (a, b)]
        assert row["low"] < row["difference"] < row["high"]
        assert (row["high"] - row["low"]) / 2 < 0.75 * np.hypot(*halves)
    unchanged = compare_measures(a, a)[0]
    assert set(unchanged["difference"]) == {0}
    assert unchanged["low"].is_null().all(), "there is nothing to be in doubt of"
