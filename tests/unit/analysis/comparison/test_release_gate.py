"""Gates of releases have the numbers of other people's code and of published tables, and err as seldom as they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, database_of, image_set, model, part, store_study
from numpy.typing import NDArray
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.comparison.cell_pairs import Run, two_of
from bandlens.analysis.comparison.gates import NOTE_OF_CLEAN, NOTE_OF_SAME, Limits, decision_of
from bandlens.analysis.comparison.release_gate import (
    FLIPS,
    ReleasePair,
    decide,
    draw_largest,
    gate_release,
    relative_flips,
)
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.statistics.paired import paired
from bandlens.core.errors import UsageError

LOWPASS = [condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.3)]
SETTINGS = [condition(), *LOWPASS]


def pair_of(
    old_hits: NDArray[np.bool_], new_hits: NDArray[np.bool_], clusters: NDArray[np.int64] | None = None
) -> ReleasePair:
    """Two releases by which images they have right, (conditions, n) each."""
    conditions = pl.DataFrame({"probe": [f"probe{k}" for k in range(len(old_hits))]})
    ids = np.arange(old_hits.shape[1]) if clusters is None else clusters
    values = {"accuracy": (old_hits.astype(float), new_hits.astype(float))}
    return ReleasePair(conditions, (old_hits, new_hits), values, ids)


def all_images(pair: ReleasePair) -> list[tuple[str, NDArray[np.int64]]]:
    return [("", np.arange(len(pair.clusters)))]


def judge(pair: ReleasePair, limits: Limits) -> pl.DataFrame:
    return decide(pair.judge(all_images(pair), limits)[0])


def outcomes(n: int, hits: int, losses: int, gains: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """One condition with `hits` images right before, of which `losses` are wrong now, and `gains` right now alone."""
    old_hits, new_hits = np.zeros((2, 1, n), bool)
    old_hits[0, :hits] = True
    new_hits[0, losses : hits + gains] = True
    return old_hits, new_hits


# Negative flips


@pytest.mark.parametrize(
    ("error_before", "error_now", "flips", "relative"),
    [(4.90, 4.85, 1.83, 39.68), (30.36, 29.36, 5.96, 29.15)],
)
def test_relative_negative_flips_are_those_of_the_published_table(
    error_before: float, error_now: float, flips: float, relative: float
) -> None:
    """Rates as PCT's authors print them; the second is printed as 29.17, from figures that were not rounded."""
    shares = (np.array([value / 100]) for value in (flips, error_before, error_now))
    assert 100 * relative_flips(*shares)[0] == pytest.approx(relative, abs=0.006)


def test_negative_flips_have_wilsons_interval_and_its_ends_decide() -> None:
    pair = pair_of(*outcomes(2000, 1500, 40, 60))
    low, high = proportion_confint(40, 2000, method="wilson")
    for limit, verdict in ((low - 1e-9, "fail"), (0.02, "undecided"), (high + 1e-9, "pass")):
        row = judge(pair, Limits(negative_flips=limit, margin=0.5)).row(
            by_predicate=pl.col("measure") == FLIPS, named=True
        )
        assert (row["loss_low"], row["loss_high"]) == pytest.approx((low, high))
        # Two rows: the second of Holm's steps has the level of a single test.
        assert min(row["p_pass"], row["p_fail"]) >= 0.025 or verdict != "undecided"
        assert row["verdict"] in (verdict, "undecided")
        assert (row["flips"], row["relative_flips"]) == pytest.approx((0.02, 0.02 / (0.75 * 0.24)))


# Losses


@pytest.mark.parametrize(("losses", "gains"), [(110, 100), (160, 100), (20, 200)])
def test_a_single_row_is_judged_by_its_95_percent_interval(losses: int, gains: int) -> None:
    """Images of one cluster go together."""
    old_hits, new_hits = outcomes(4000, 3000, losses, gains)
    clusters = np.arange(4000) // 2
    expected = paired(old_hits, new_hits, clusters)
    for margin in (0.0, 0.005, 0.01, 0.05):
        row = judge(pair_of(old_hits, new_hits, clusters), Limits(margin=margin)).row(0, named=True)
        assert (row["loss_low"], row["loss_high"]) == pytest.approx((-expected.high[0], -expected.low[0]))
        assert row["loss"] == pytest.approx((losses - gains) / 4000)
        verdict = "pass" if row["loss_high"] <= margin else "fail" if row["loss_low"] > 0 else "undecided"
        assert row["verdict"] == verdict
        assert (row["needed"] is not None) == (verdict == "undecided")


def test_all_rows_are_corrected_together_by_holm() -> None:
    losses = [outcomes(5000, 3000, 100 + 7 * k, 100) for k in range(12)]
    old_hits, new_hits = (np.concatenate(arrays) for arrays in zip(*losses, strict=True))
    single_rows = [judge(pair_of(*outcome), Limits()).row(0, named=True) for outcome in losses]
    rows = judge(pair_of(old_hits, new_hits), Limits())
    for name in ("p_pass", "p_fail"):
        expected = multipletests([row[name] for row in single_rows], method="holm")[1]
        assert rows[name].to_list() == pytest.approx(expected)
    assert {row["verdict"] for row in single_rows} == {"pass", "fail", "undecided"}
    fails = rows.filter(verdict="fail")
    assert 0 < len(fails) < sum(row["verdict"] == "fail" for row in single_rows)


def test_with_the_images_needed_a_row_is_decided() -> None:
    images_needed = judge(pair_of(*outcomes(1000, 700, 30, 30)), Limits()).row(0, named=True)["needed"]
    for scale, verdict in ((0.95, "undecided"), (1.02, "pass")):
        n = round(scale * images_needed)
        rows = judge(pair_of(*outcomes(n, round(0.7 * n), round(0.03 * n), round(0.03 * n))), Limits())
        assert rows["verdict"].to_list() == [verdict]


# The worst of many


@pytest.mark.parametrize(("losses", "copies"), [(40, 1), (1, 40)])
def test_independent_rows_have_sidaks_quantile_and_equal_rows_are_a_single_one(losses: int, copies: int) -> None:
    """A tenth of the images is right before alone, and a tenth afterwards alone."""
    draws = np.random.default_rng(0).random((losses, 3000))
    pair = pair_of(*(np.repeat(hits, copies, axis=0) for hits in ((draws < 0.1) | (draws > 0.2), draws >= 0.1)))
    maxima = draw_largest(pair.judge(all_images(pair), Limits())[1], pair.clusters, 1)
    assert np.quantile(maxima, 0.95) == pytest.approx(norm.ppf((1 + 0.95 ** (1 / losses)) / 2), abs=0.08)


# Releases in the database


def ranks(images: Images, errors: NDArray[np.int64] | range) -> NDArray[np.int64]:
    return np.isin(np.arange(images.info.count), errors).astype(int)


def add_releases(store: Store, wrong_before: Sequence[range], wrong_now: Sequence[range], n: int = 2000) -> Images:
    """Two releases, v1 and v2, of one checkpoint each; an image in the range of a condition is wrong."""
    images = image_set(n, labels=np.arange(n) % 10)
    assert images.labels is not None
    for name, ranges in (("v1", wrong_before), ("v2", wrong_now)):
        parts = []
        for setting, errors in zip(SETTINGS, ranges, strict=False):
            rank = ranks(images, errors)
            parts.append(part(cell(images, setting, by=model(name)), (images.labels + rank) % 10, rank))
        store_study(store, name, images, parts)
    return images


def runs(store: Store) -> tuple[Run, Run]:
    return two_of(Run(store, "v1@1"), Run(store, "v2@1"), "checkpoint", "v1", "v2")


def test_a_release_that_lost_one_condition_fails_there_alone(store: Store) -> None:
    errors = range(600)
    add_releases(store, [errors] * 3, [errors, errors, range(720)])
    table = gate_release(*runs(store), Limits())
    assert table.label == "v2 against v1"
    verdicts = dict(table.rows.select("parameters", "verdict").rows())
    assert [*verdicts.values()] == ["pass", "pass", "fail"]
    assert table.worst is not None
    assert (table.worst["parameters"], table.worst["loss"]) == ('{"cutoff": 0.3}', pytest.approx(0.06))
    row = table.rows.row(2, named=True)
    assert table.worst["loss_low"] < row["loss_low"] < row["loss_high"] < table.worst["loss_high"]
    assert set(table.rows["differs_in"]) == {"weights or export"}


def test_a_class_that_is_lost_is_found_among_slices(store: Store) -> None:
    """Class 3 loses all of its images where the clean accuracy stays, since class 4 gains as many."""
    third, fourth = range(3, 2000, 10), range(4, 2000, 10)
    add_releases(store, [fourth] * 2, [third] * 2)
    table = gate_release(*runs(store), Limits(slices=["class"], conditions=["clean"]))
    verdicts = dict(table.rows.select("slice", "verdict").rows())
    assert verdicts.pop("class 3") == "fail"
    assert "fail" not in verdicts.values()
    assert len(verdicts) == 1 + 9
    assert {row["n"] for row in table.rows.to_dicts() if row["slice"]} == {200}
    assert table.worst is not None
    assert table.worst["slice"] == "class 3"


@pytest.mark.parametrize("n", [10, 1])
def test_classes_of_one_image_are_counted_and_not_judged(store: Store, n: int) -> None:
    add_releases(store, [range(0)], [range(1)], n)
    table = gate_release(*runs(store), Limits(slices=["class"]))
    assert table.rows["slice"].to_list() == [""]
    assert table.lacking == f"{n} slice{'s' * (n > 1)} of set of a single image or cluster"
    assert (table.worst is None, decision_of(table.rows.row(0, named=True))["p"] is None) == (n == 1, n == 1)


def test_a_value_of_an_attribute_that_is_lost_is_found_among_slices(store: Store) -> None:
    fog, snow = np.arange(0, 500), np.arange(400, 1000)
    attributes = {("weather", "fog"): fog, ("site", "b"): snow}
    images = replace(image_set(2000, labels=[0] * 2000), attributes=attributes)
    for name, errors in (("v1", range(1000, 1400)), ("v2", range(400))):
        rank = ranks(images, errors)
        store_study(store, name, images, [part(cell(images, by=model(name)), rank, rank)])
    rows = {row["slice"]: row for row in gate_release(*runs(store), Limits(slices=["attribute"])).rows.to_dicts()}
    assert {name: (row["n"], row["loss"], row["verdict"]) for name, row in rows.items()} == {
        "": (2000, 0, "undecided"),
        "site=b": (600, 0, "pass"),
        "weather=fog": (500, 0.8, "fail"),
    }


def test_other_measures_are_judged_by_their_own_direction(store: Store) -> None:
    images = image_set(400, labels=[0] * 400)
    for name, rank, confidence in (("v1", 0, 0.9), ("v2", 1, 0.6)):
        parts = [part(cell(images, by=model(name)), [rank] * 400, [rank] * 400, confidence=confidence)]
        store_study(store, name, images, parts)
    table = gate_release(*runs(store), Limits(measures=["accuracy", "reciprocal_rank", "top1_brier_score"]))
    rows = {row["measure"]: row for row in table.rows.to_dicts()}
    assert rows["accuracy"]["loss"] == 1
    assert rows["reciprocal_rank"]["loss"] == pytest.approx(1 - 1 / 2)
    assert rows["top1_brier_score"]["loss"] == pytest.approx(0.6**2 - 0.1**2)
    assert (rows["top1_brier_score"]["before"], rows["top1_brier_score"]["now"]) == pytest.approx((0.01, 0.36))
    assert set(table.rows["verdict"]) == {"fail"}


def test_images_without_labels_are_judged_by_agreement_and_clean_ones_by_that_with_the_release_before(
    store: Store,
) -> None:
    images = image_set(1000)
    for name, changes, flips in (("v1", 0, 0), ("v2", 50, 200)):
        clean = np.where(np.arange(1000) < changes, 2, 0)
        perturbed = np.where(np.arange(1000) >= 1000 - flips, 1, clean)
        parts = [
            part(cell(images, setting, by=model(name)), c)
            for setting, c in zip(SETTINGS, (clean, perturbed), strict=False)
        ]
        store_study(store, name, images, parts)
    rows = gate_release(*runs(store), Limits()).rows
    assert rows.select("probe", "measure", "before", "loss", "verdict", "note").rows() == [
        ("clean", "agreement", 1, 0.05, "fail", NOTE_OF_CLEAN),
        ("lowpass", "agreement", 1, 0.2, "fail", None),
    ]


def test_cells_that_are_one_and_the_same_pass_in_one_database_and_across_two(store: Store, tmp_path: Path) -> None:
    images = image_set(100, labels=[0] * 100)
    shared = part(cell(images, by=model("a")), [0] * 100, [0] * 100)
    for name, by in (("v1", "old"), ("v2", "new")):
        outcome = part(cell(images, by=model("b", content=by)), [0] * 100, [0] * 100)
        store_study(store, name, images, [shared, outcome])
    with open_store(database_of(tmp_path, images, [shared, outcome], "v2")) as store_b:
        for run in (Run(store, "v2@1"), Run(store_b, "v2@1")):
            table = gate_release(Run(store, "v1@1"), run, Limits())
            assert (table.same, table.rows["checkpoint"].to_list()) == (1, ["b", "a"])
            row = table.rows.row(1, named=True)
            assert (row["verdict"], row["note"], row["loss"], row["n"]) == ("pass", NOTE_OF_SAME, 0, 100)
            assert row["p_pass"] is None
            assert table.rows["note"][0] is None


def test_equal_keys_with_other_predictions_are_judged(store: Store, tmp_path: Path) -> None:
    """Another machine may answer otherwise, and without labels its clean answers decide, too."""
    images = image_set(100, labels=[0] * 100)
    store_study(store, "v1", images, [part(cell(images, by=model("a")), [0] * 100, [0] * 100)])
    rank = [1] + [0] * 99
    path = database_of(tmp_path, images, [part(cell(images, by=model("a")), rank, rank)], "v2")
    with open_store(path) as store_b:
        rows = gate_release(Run(store, "v1@1"), Run(store_b, "v2@1"), Limits()).rows
        assert rows.select("loss", "note").rows() == [(0.01, None)]
    unlabelled = image_set(50)
    answers = [part(cell(unlabelled, setting, by=model("a")), [0] * 50) for setting in SETTINGS[:2]]
    store_study(store, "u", unlabelled, answers)
    parts = [part(answers[0].cell, [1] * 50), answers[1]]
    with open_store(database_of(tmp_path, unlabelled, parts, "u", file="unlabelled.duckdb")) as store_b:
        assert gate_release(Run(store, "u@1"), Run(store_b, "u@1"), Limits()).same == 0


def test_what_lacks_is_named(store: Store) -> None:
    add_releases(store, [range(0)], [range(0)], n=20)
    with pytest.raises(UsageError, match=r"no cell in common: 1 cell of v1@1 alone \(checkpoint v1\); 1 cell of v2@1"):
        gate_release(Run(store, "v1@1"), Run(store, "v2@1"), Limits())
    for limits, message in (
        (Limits(measures=["confidence"]), "unknown name in gate.measures 'confidence'; known: accuracy, agreement, "),
        (Limits(conditions=["lowpas"]), "unknown name in gate.conditions 'lowpas'"),
        (Limits(measures=["accuracy_real"]), "no image has a number of accuracy_real; leave it out of gate"),
        (Limits(slices=["class", "attribute"]), "no image has a known attribute; leave it out of gate"),
    ):
        with pytest.raises(UsageError, match=message):
            gate_release(*runs(store), limits)
