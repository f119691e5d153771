"""Precision gates have the numbers of other people's code on made-up predictions, and every verdict at its boundary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import SESSION, Images, cell, condition, image_set, model, part
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.comparison.gates import NOTE_OF_SAME, Limits, decision_of
from bandlens.analysis.comparison.precision_gate import (
    flip_share,
    gate_precision,
    images_needed,
    not_passed,
    verdict,
)
from bandlens.analysis.database.store import Store
from bandlens.analysis.statistics.paired import PairedDifference, paired_difference
from bandlens.analysis.statistics.wilson import SampledShare
from bandlens.core.records import Cell, Finished

LIMITS = Limits()
LOWPASS = condition("lowpass", cutoff=0.3)


def add(store: Store, images: Images, parts: Sequence[Finished]) -> None:
    """Store parts of cells that belong to no study."""
    cells = [part.cell for part in parts]
    store.add_cells(cells, [images])
    progress = store.progress(cells)
    store.commit([part for part in parts if not progress[part.cell.key]], {cell.variant: SESSION for cell in cells})


def gate_rows(
    store: Store,
    images: Images,
    predictions: Sequence[tuple[ArrayLike, ArrayLike]],
    limits: Limits = LIMITS,
    precision: str = "int8",
) -> pl.DataFrame:
    """The gate of predictions (fp32, other precision), clean and then low-pass."""
    pairs, parts = [], []
    for setting, predicted in zip((condition(), LOWPASS), predictions, strict=False):
        cells = cell(images, setting), cell(images, setting, precision=precision)
        pairs.append(cells)
        for gate_cell, classes in zip(cells, predicted, strict=True):
            rank = None if images.labels is None else (np.asarray(classes) != images.labels).astype(int)
            parts.append(part(gate_cell, classes, rank))
    add(store, images, parts)
    return gate_cells(store, pairs, limits)


def gate_cells(
    store: Store,
    pairs: Sequence[tuple[Cell, Cell]],
    limits: Limits,
    advance: Callable[[float], None] = lambda _: None,
) -> pl.DataFrame:
    """Gate the pairs, and give their rows of the view."""
    candidates = gate_precision(store, "int8 against fp32", pairs, limits, advance).rows["cell"].to_list()
    query = "FROM gate WHERE candidate_cell IN (SELECT unnest($1)) ORDER BY list_position($1, candidate_cell)"
    return store.frame(query, [candidates])


def flip(predicted: NDArray[Any], *places: int | slice) -> NDArray[Any]:
    """Predictions with other classes in places."""
    classes = predicted.copy()
    for place in places:
        classes[place] = (classes[place] + 1) % 10
    return classes


# Verdicts


NO_CHANGE = (0.0, 0.0)
SMALL_CHANGE = (-0.001, 0.001)


@pytest.mark.parametrize(
    ("flips", "difference", "expected", "end"),
    [
        (NO_CHANGE, NO_CHANGE, "pass", "flips_high"),
        ((0.002, 0.01), (-0.003, 0.003), "pass", "flips_high"),
        ((0.002, np.nextafter(0.01, 1)), SMALL_CHANGE, "undecided", "flips_high"),
        ((np.nextafter(0.01, 1), 0.02), SMALL_CHANGE, "fail", "flips_low"),
        ((0.002, 0.01), (np.nextafter(-0.003, -1), 0), "undecided", "high"),
        ((0.002, 0.01), (0, np.nextafter(0.003, 1)), "undecided", "low"),
        ((0.002, 0.01), (np.nextafter(0.003, 1), 0.009), "fail", "high"),
        ((0.002, 0.01), (-0.009, np.nextafter(-0.003, -1)), "fail", "low"),
        ((0.5, 0.6), (None, None), "fail", "flips_low"),
        ((0.002, 0.01), (None, None), "undecided", "flips_high"),
        ((0.002, 0.01), None, "pass", "flips_high"),
    ],
)
def test_the_bounds_of_the_intervals_decide(
    flips: tuple[float, float], difference: tuple[float | None, float | None] | None, expected: str, end: str
) -> None:
    """A difference of None is that of clean images without labels, whose accuracies have none by definition.

    `end` is that which a row of the gate prints as the one that decides: a loss is the opposite of a difference.
    """
    names = ("flips_low", "flips_high", "low", "high")
    row = dict(zip(names, (*flips, *(difference or (None, None))), strict=True)) | {"itself": difference is None}
    frame = pl.DataFrame([row], dict.fromkeys(names, pl.Float64) | {"itself": pl.Boolean})
    assert frame.select(verdict(LIMITS)).item() == expected
    losses = [None if number is None else -number for number in (row["high"], row["low"])]
    facts = {"verdict": expected, "note": None, "margin": LIMITS.accuracy, "max_flips": LIMITS.flips}
    decision = decision_of(row | facts | dict(zip(("loss_low", "loss_high"), losses, strict=True)))
    assert (decision["decides"].split()[0], decision["p"]) == (end, None)


# Intervals, and how many images they need


def count_needed(flips: Sequence[float], lost: ArrayLike, gained: ArrayLike, limits: Limits = LIMITS) -> NDArray[Any]:
    """The images that would decide, by shares of independent ones."""
    shares = [np.broadcast_to(share, len(flips)) for share in (gained, lost, 1.0, 0.0, np.inf)]
    return images_needed(SampledShare(np.array(flips), 1.0), PairedDifference(*shares), 1, limits)


@pytest.mark.parametrize("flips", [0.004, 0.05])
def test_with_the_images_needed_the_interval_of_flips_ends_at_its_limit(flips: float) -> None:
    n = float(count_needed([flips], np.nan, np.nan)[0])
    low, high = proportion_confint(flips * n, n, method="wilson")
    assert (high if flips < 0.01 else low) == pytest.approx(0.01, rel=1e-6)


def test_381_images_without_a_flip_are_within_1_percent_and_380_are_not() -> None:
    (n,) = count_needed([0], np.nan, np.nan)
    assert np.ceil(n) == 381
    highs = [flip_share(np.zeros((1, count), bool), np.arange(count)).ends()[1][0] for count in (380, 381)]
    assert highs[0] > 0.01 >= highs[1]


@pytest.mark.parametrize(("losses", "gains"), [(5, 0), (12, 2)])
def test_with_the_images_needed_the_interval_of_the_difference_ends_at_its_limit(losses: int, gains: int) -> None:
    n = int(np.ceil(count_needed([0], losses / 1000, gains / 1000, Limits(flips=0.9))[0]))
    counts = np.array([[round(count * n / 1000)] for count in (losses, gains)], np.int64)
    sums = np.zeros((1, n), np.int64)
    sums[0, : counts[0, 0]], sums[0, n - counts[1, 0] :] = -1, 1
    _, high = paired_difference(counts[1] - counts[0], counts[0] + counts[1], sums, np.ones(n, np.int64)).ends()
    assert high[0] == pytest.approx(-0.003, abs=1 / n), "more is lost than the limit, and no more images are needed"


def test_to_fail_one_is_enough_and_on_a_limit_no_number_of_images_is() -> None:
    n = count_needed([0.02, 0.02, 0.005, 0.01], [0.01, 0, 0.0085, 0.01], [0.01, 0.02, 0.0115, 0.01])
    assert n[0] == count_needed([0.02], np.nan, np.nan)[0]
    assert n[1] < n[0]
    assert np.isinf(n[2:]).all()


# Gates in the database


def test_labelled_images_are_compared_by_accuracy(store: Store) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 400)
    reference = np.where(rng.random(400) < 0.7, labels, (labels + 3) % 10)
    candidate = np.where(rng.random(400) < 0.2, rng.integers(0, 10, 400), reference)
    row = gate_rows(store, image_set(400, labels=labels), [(reference, candidate)]).row(0, named=True)
    right_a, right_b = reference == labels, candidate == labels
    losses, gains = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    assert (row["reference"], row["candidate"]) == ("onnxruntime:fp32", "onnxruntime:int8")
    assert (row["n"], row["lost"], row["gained"]) == (400, losses, gains)
    assert (row["reference_top1"], row["candidate_top1"]) == (right_a.mean(), right_b.mean())
    assert row["difference"] == pytest.approx(right_b.mean() - right_a.mean())
    assert row["p"] == pytest.approx(mcnemar([[0, losses], [gains, 0]], exact=losses + gains < 25).pvalue)
    count = int((reference != candidate).sum())
    assert row["flips"] == count / 400
    assert (row["flips_low"], row["flips_high"]) == pytest.approx(proportion_confint(count, 400, method="wilson"))
    assert (row["verdict"], row["needed"]) == ("fail", None)
    assert (row["max_flips"], row["max_difference"]) == (0.01, 0.003)


def test_equal_predictions_pass_with_1300_images_and_not_with_1200(store: Store) -> None:
    def row(n: int) -> dict[str, Any]:
        predicted = np.arange(n) % 10
        return gate_rows(store, image_set(n, labels=predicted), [(predicted, predicted)]).row(0, named=True)

    assert (row(1300)["verdict"], row(1300)["needed"]) == ("pass", None)
    gate_row = row(1200)
    assert (gate_row["verdict"], gate_row["needed"]) == ("undecided", 1300)
    assert gate_row["flips_high"] < 0.01
    assert gate_row["high"] > 0.003


def test_unlabelled_images_are_right_where_they_agree_with_the_clean_prediction_of_the_same_precision(
    store: Store,
) -> None:
    clean = np.arange(200) % 10
    clean_int8, lowpass = flip(clean, 0, 1, 2), flip(clean, slice(0, 50))
    rows = gate_rows(store, image_set(200), [(clean, clean_int8), (lowpass, lowpass)])
    first, second = rows.rows(named=True)
    assert (first["probe"], first["flips"], first["verdict"]) == ("clean", 3 / 200, "undecided")
    columns = ("reference_top1", "candidate_top1", "difference", "low", "high", "lost", "gained", "p")
    assert [first[name] for name in columns] == [None] * 8
    assert (second["reference_top1"], second["candidate_top1"], second["gained"]) == (150 / 200, 153 / 200, 3)
    assert second["flips"] == 0


def test_clusters_make_the_intervals_wider_as_in_the_view_of_accuracies(store: Store) -> None:
    labels, clusters = np.zeros(400, int), np.repeat(np.arange(80), 5)
    candidate = flip(labels, slice(0, 2))
    images = image_set(400, labels=labels, clusters=clusters)
    (row,) = gate_rows(store, images, [(labels, candidate)]).rows(named=True)
    (view,) = store.frame("FROM cell_accuracy WHERE cell = ?", [row["candidate_cell"]]).rows(named=True)
    # The reference has everything right, so the flips are the candidate's mistakes.
    expected = (1 - view["high"], 1 - view["low"])
    assert (row["flips_low"], row["flips_high"]) == pytest.approx(expected, abs=1e-7)
    (independent_row,) = gate_rows(store, image_set(400, labels=labels), [(labels, candidate)]).rows(named=True)
    assert row["high"] - row["low"] > independent_row["high"] - independent_row["low"]
    assert row["needed"] > independent_row["needed"]


def test_one_cluster_decides_nothing(store: Store) -> None:
    labels = np.zeros(2000, int)
    (row,) = gate_rows(store, image_set(2000, labels=labels, clusters=labels), [(labels, labels)]).rows(named=True)
    assert (row["low"], row["high"], row["p"], row["verdict"]) == (None, None, 1, "undecided")


def test_a_gate_replaces_the_one_of_the_same_cells_and_no_other(store: Store) -> None:
    labels = np.zeros(1000, int)
    images = image_set(1000, labels=labels)
    first_gate = gate_rows(store, images, [(labels, flip(labels, *range(5)))])
    bf16_gate = gate_rows(store, images, [(labels, labels)], precision="bf16")
    second_gate = gate_cells(store, [(cell(images), cell(images, precision="int8"))], Limits(flips=0.1, accuracy=0.1))
    assert (first_gate["verdict"].item(), second_gate["verdict"].item()) == ("undecided", "pass")
    gates = store.frame("FROM gate ORDER BY candidate")
    assert gates["candidate"].to_list() == ["onnxruntime:bf16", "onnxruntime:int8"]
    assert gates["max_flips"].to_list() == [0.01, 0.1]
    assert gates["decided"][0] == bf16_gate["decided"][0]
    assert second_gate["decided"][0] > first_gate["decided"][0]


def test_a_cell_that_is_its_own_reference_passes_on_few_images(store: Store) -> None:
    """A finished file runs at its own precision, whichever is asked for."""
    images, labels = image_set(10, labels=[0] * 10), np.zeros(10, int)
    finished, pair = cell(images, LOWPASS), (cell(images), cell(images, precision="int8"))
    add(store, images, [part(gate_cell, labels, labels) for gate_cell in (finished, *pair)])
    gate_rows = gate_precision(store, "int8 against fp32", [pair, (finished, finished)], LIMITS)
    assert gate_rows.rows.select("probe", "verdict", "note").rows() == [
        ("clean", "undecided", None),
        ("lowpass", "pass", NOTE_OF_SAME),
    ]
    assert (gate_rows.same, gate_rows.counts) == (1, {"pass": 1, "fail": 0, "undecided": 1})


def test_pairs_that_are_not_complete_are_left_out(store: Store) -> None:
    images = image_set(20)
    pairs = [(cell(images, setting), cell(images, setting, precision="int8")) for setting in (condition(), LOWPASS)]
    add(store, images, [part(gate_cell, np.zeros(20)) for gate_cell in (*pairs[0], pairs[1][0])])
    add(store, images, [part(pairs[1][1], np.zeros(19))])
    assert gate_cells(store, pairs, LIMITS)["probe"].to_list() == ["clean"]


def test_checkpoints_and_image_sets_are_kept_apart_and_every_pair_has_its_row(store: Store) -> None:
    rng = np.random.default_rng(3)
    expected, pairs = {}, []
    for images in (image_set(30, name="a"), image_set(40, name="b", labels=np.arange(40) % 10)):
        for by in (model("one"), model("two")):
            for setting in (condition(), LOWPASS):
                cells = cell(images, setting, by=by), cell(images, setting, by=by, precision="int8")
                predicted = rng.integers(0, 3, (2, images.info.count))
                ranks = [
                    None if images.labels is None else (classes != images.labels).astype(int) for classes in predicted
                ]
                add(store, images, [part(*outcome) for outcome in zip(cells, predicted, ranks, strict=True)])
                pairs.append(cells)
                expected[by.name, images.info.name, setting.probe] = np.mean(predicted[0] != predicted[1])
    advances = []
    rows = gate_cells(store, pairs, LIMITS, advances.append)
    names = ("checkpoint", "image_set", "probe", "flips")
    assert {(c, i, f): flips for c, i, f, flips in rows.select(names).rows()} == pytest.approx(expected)
    assert sum(advances) == 4


# Which cells may be run


def add_gate(store: Store, flips: int = 0, precision: str = "int8", name: str = "gate") -> Images:
    """A gate on 2,000 images with so many flips, clean and low-pass."""
    labels = np.full(2000, len(name))
    images = image_set(2000, name=name, labels=labels)
    pair = (labels, flip(labels, slice(0, flips)))
    gate_rows(store, images, [pair, pair], precision=precision)
    return images


def study_cells(precision: str = "int8") -> list[Cell]:
    """The cells of a study on other images."""
    images = image_set(7)
    return [cell(images, setting, precision=precision) for setting in (condition(), LOWPASS)]


def test_another_precision_than_fp32_needs_a_gate_of_what_runs_on_any_images_with_any_seed(store: Store) -> None:
    assert not_passed(store, study_cells("fp32"), LIMITS) == (0, 0)
    assert not_passed(store, study_cells(), LIMITS) == (2, 2)
    add_gate(store)
    assert not_passed(store, study_cells(), LIMITS) == (0, 2)
    assert not_passed(store, [replace(cell, seed=3) for cell in study_cells()], LIMITS) == (0, 2)
    ungated_cell = cell(image_set(7), condition("lowpass", cutoff=0.5), precision="int8")
    assert not_passed(store, [*study_cells(), ungated_cell], LIMITS) == (1, 3)
    for change in ({"sha256": "another graph"}, {"engine": "openvino"}, {"precision": "bf16"}):
        cells = [replace(gate_cell, variant=replace(gate_cell.variant, **change)) for gate_cell in study_cells()]
        assert not_passed(store, cells, LIMITS) == (2, 2), change
    cells = [cell(image_set(7), setting, by=model("other"), precision="int8") for setting in (condition(), LOWPASS)]
    assert not_passed(store, cells, LIMITS) == (2, 2)


def test_what_was_undecided_or_passed_by_looser_limits_only_has_not_passed(store: Store) -> None:
    images = add_gate(store, flips=30)
    gate_cells(
        store,
        [(cell(images, setting), cell(images, setting, precision="int8")) for setting in (condition(), LOWPASS)],
        Limits(0.5, 0.5),
    )
    assert store.frame("SELECT DISTINCT verdict FROM gate").item() == "pass"
    assert not_passed(store, study_cells(), LIMITS) == (2, 2)
    assert not_passed(store, study_cells(), Limits(0.05, 0.05)) == (0, 2)


def test_a_failure_on_any_images_outweighs_a_pass(store: Store) -> None:
    add_gate(store)
    add_gate(store, flips=200, name="others")
    assert not_passed(store, study_cells(), LIMITS) == (2, 2)


def test_a_gate_against_another_precision_than_fp32_does_not_count(store: Store) -> None:
    labels = np.zeros(2000, int)
    images = image_set(2000, labels=labels)
    pairs = [
        tuple(cell(images, setting, precision=precision) for precision in ("bf16", "int8"))
        for setting in (condition(), LOWPASS)
    ]
    add(store, images, [part(gate_cell, labels, labels) for pair in pairs for gate_cell in pair])
    assert gate_cells(store, pairs, LIMITS)["verdict"].to_list() == ["pass", "pass"]
    assert not_passed(store, study_cells(), LIMITS) == (2, 2)
