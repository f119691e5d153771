"""Octave shares against their definition over all orders, networks whose shares are known, and cluster intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from math import comb

import numpy as np
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of, right_outcomes
from numpy.typing import NDArray
from scipy import stats

from bandlens.analysis.metrics.base import Available, State
from bandlens.analysis.metrics.families.octaves import (
    LOG_SHARES,
    MASKS,
    MEASURES,
    PAIRS,
    SHARES,
    interactions,
    octave_differences,
    octave_estimates,
)
from bandlens.analysis.metrics.predictions import Outcomes
from bandlens.analysis.metrics.registry import biases
from bandlens.core.records import Condition
from bandlens.probes.octaves import OCTAVE_MASK

CONDITIONS = OCTAVE_MASK.conditions({})


def conditions_of_masks() -> dict[str, Condition]:
    """Each set of octaves -> its condition; the whole image is the clean one."""
    by_mask = {str(condition["keep"]).replace("none", ""): condition for condition in CONDITIONS}
    return by_mask | {"0123456": CLEAN}


def outcomes_by(recognize: Callable[[str], NDArray[np.bool_]], **options: object) -> Outcomes:
    """Outcomes of a network that has the images right, (n,), that a function of the octaves kept says."""
    answers = {condition: recognize(mask) for mask, condition in conditions_of_masks().items()}
    return right_outcomes({CLEAN: answers.pop(CLEAN)} | answers, **options)  # type: ignore[arg-type]


def random_network(seed: int, count: int = 40) -> Callable[[str], NDArray[np.bool_]]:
    values = dict(zip(MASKS, np.random.default_rng(seed).random((128, count)) < 0.5, strict=True))
    values["0123456"][: count // 2] = True
    return values.__getitem__


def values_of(outcomes: Outcomes) -> dict[str, float]:
    return {name: estimate.value for name, estimate in octave_estimates(outcomes).items()}


def test_octaves_that_small_images_lack_have_no_numbers() -> None:
    """At 64 pixels octave 0 holds no frequency, so that 0 % of the accuracy, with an interval, would say nothing."""
    outcomes = outcomes_by(random_network(0))
    estimates = octave_estimates(outcomes)
    small_estimates = octave_estimates(replace(outcomes, subject=replace(outcomes.subject, size=64)))
    lacking = {"octave_share_0", "octave_share_0_0", *(f"octave_pair_0_{octave}" for octave in range(1, 7))}
    assert estimates.keys() - small_estimates.keys() == lacking
    assert {*SHARES[1:]} < small_estimates.keys()


def test_shares_are_the_mean_gain_over_all_5040_orders() -> None:
    v = np.random.default_rng(1).random((128, 3))
    values = dict(zip(MASKS, v, strict=True))
    gains, orders = np.zeros((7, 3)), 0
    for order in permutations("0123456"):
        mask, orders = "", orders + 1
        for octave in order:
            superset = "".join(sorted(mask + octave))
            gains[int(octave)] += values[superset] - values[mask]
            mask = superset
    assert orders == 5040
    np.testing.assert_allclose(interactions(v, 1), gains / orders, atol=1e-12)


def test_log_probabilities_are_shared_out_with_the_weights_of_i_aside() -> None:
    """The oracle is the published formula, each coalition S of the other six weighing 1 / (7 binomial(6, |S|))."""
    rng = np.random.default_rng(11)
    probabilities = {mask: rng.random(40).astype(np.float32) for mask in MASKS}
    estimates = octave_estimates(with_probabilities(outcomes_by(random_network(0)), probabilities))
    logarithms = {mask: np.log(values.astype(np.float64)) for mask, values in probabilities.items()}
    for octave in "0123456":
        share = sum(
            (logarithms["".join(sorted(mask + octave))] - logarithms[mask]) / (7 * comb(6, len(mask)))
            for mask in MASKS
            if octave not in mask
        )
        assert estimates[f"octave_log_share_{octave}"].value == pytest.approx(share.mean(), abs=1e-12)
    whole = sum(estimates[name].value for name in LOG_SHARES)
    assert whole == pytest.approx((logarithms["0123456"] - logarithms[""]).mean(), abs=1e-12)
    assert {*LOG_SHARES}.isdisjoint(octave_estimates(outcomes_by(random_network(0)))), "no probabilities are known"


def with_probabilities(outcomes: Outcomes, probabilities: Mapping[str, NDArray[np.float32]]) -> Outcomes:
    """Outcomes that know the probability of the label of each image, by the octaves kept."""
    conditions = {condition: mask for mask, condition in conditions_of_masks().items()}
    decisions = [
        replace(cell.decisions, label_probability=probabilities[conditions[condition]])
        for condition, cell in zip(outcomes.available.conditions, outcomes.cells.values(), strict=True)
    ]
    clean = next(cell for cell in decisions if cell.label_probability is probabilities["0123456"])
    cells = zip(outcomes.cells.items(), decisions, strict=True)
    return replace(outcomes, cells={key: replace(cell, decisions=new, clean=clean) for (key, cell), new in cells})


@pytest.mark.parametrize(
    ("recognize", "shares", "pairs"),
    [
        pytest.param(lambda mask: "2" in mask and "5" in mask, {"2": 0.5, "5": 0.5}, {"2_5": 1.0}, id="needs 2 and 5"),
        pytest.param(lambda mask: "1" in mask or "3" in mask, {"1": 0.5, "3": 0.5}, {"1_3": -1.0}, id="either of two"),
        pytest.param(lambda mask: len(mask) >= 0, {}, {}, id="always right"),
    ],
)
def test_networks_whose_shares_are_known(
    recognize: Callable[[str], bool], shares: dict[str, float], pairs: dict[str, float]
) -> None:
    values = values_of(outcomes_by(lambda mask: np.full(12, recognize(mask))))
    assert {name[-1]: values[name] for name in SHARES if values[name]} == shares
    assert {name[-3:]: values[name] for name in PAIRS if values[name]} == pairs


def test_intervals_are_those_of_a_mean_over_clusters() -> None:
    """With many clusters of one image, the interval is close to Student's; images of a cluster count as one."""
    network = random_network(5, 400)
    estimate = octave_estimates(outcomes_by(network))["octave_share_3"]
    numbers = interactions(np.array([network(mask) for mask in MASKS]), 1)[3]
    low, high = stats.ttest_1samp(numbers, 0).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.002)
    assert estimate.n == 400

    def double(mask: str) -> NDArray[np.bool_]:
        return np.repeat(network(mask), 2)

    twice = octave_estimates(outcomes_by(double, clusters=np.repeat(np.arange(400), 2)))["octave_share_3"]
    assert (twice.value, twice.low, twice.high) == pytest.approx((estimate.value, low, high), abs=0.002)


@pytest.mark.parametrize("clusters", [2, 5])
def test_intervals_of_few_clusters_end_where_the_range_of_the_number_does(clusters: int) -> None:
    ids = np.arange(40) % clusters
    a, b = (outcomes_by(random_network(seed), clusters=ids) for seed in (4, 10))
    ends = {name: (estimate.low, estimate.high) for name, estimate in octave_estimates(a).items()}
    for intervals, widest in ((ends, 1.0), (octave_differences(a, b), 2.0)):
        for name, (low, high) in intervals.items():
            reach = 2 * widest if name in PAIRS else widest
            assert -reach <= low < high <= reach, name


def test_differences_are_paired_over_images() -> None:
    network_a, network_b = random_network(6, 300), random_network(7, 300)
    a, b = outcomes_by(network_a), outcomes_by(network_b)
    ends = octave_differences(a, b)
    assert set(ends) == {*SHARES, *PAIRS, *(f"{name}_0" for name in SHARES)}
    numbers_a, numbers_b = (
        interactions(np.array([network(mask) for mask in MASKS]), 2)[0] for network in (network_a, network_b)
    )
    low, high = stats.ttest_rel(numbers_b, numbers_a).confidence_interval()
    assert ends["octave_pair_0_1"] == pytest.approx((low, high), abs=0.005)
    assert octave_differences(a, a)["octave_share_0"] == pytest.approx((0, 0), abs=0.02)


def test_classes_have_shares_that_add_up_too() -> None:
    label = np.arange(40) % 2
    network = random_network(8)
    answers = {condition: np.where(network(mask), label, 9) for mask, condition in conditions_of_masks().items()}
    images = replace(images_of(40), label=label)
    outcomes = outcomes_of({CLEAN: answers.pop(CLEAN)} | answers, images, names={1: "cat"}, classes=10)
    values = values_of(outcomes)
    for label_number, class_name in ((0, "0"), (1, "cat")):
        members = label == label_number
        expected = network("0123456")[members].mean() - network("")[members].mean()
        assert sum(values[f"{name}_{class_name}"] for name in SHARES) == pytest.approx(expected, abs=1e-12)


def test_accuracy_of_blind_guesses_has_shares_at_chance() -> None:
    rng = np.random.default_rng(9)
    answers = {mask: rng.random(50) < 0.1 for mask in MASKS}
    estimates = octave_estimates(outcomes_by(answers.__getitem__, classes=10))
    assert {estimate.state for estimate in estimates.values()} == {State.AT_CHANCE}


@pytest.mark.parametrize(("labelled", "names"), [(True, {*SHARES, *PAIRS, *LOG_SHARES}), (False, {*SHARES, *PAIRS})])
def test_without_clean_predictions_every_number_is_missing(labelled: bool, names: set[str]) -> None:
    outcomes = right_outcomes({condition: np.ones(4, np.bool_) for condition in CONDITIONS})
    estimates = octave_estimates(replace(outcomes, available=replace(outcomes.available, labelled=labelled)))
    assert estimates.keys() == names
    assert {estimate.state for estimate in estimates.values()} == {State.MISSING}


def test_all_masks_are_needed_and_shares_are_biases() -> None:
    [*measures] = MEASURES
    assert measures[0].needs(Available([CLEAN, *CONDITIONS])) is None
    assert measures[0].needs(Available([CLEAN, *CONDITIONS[3:]])) == (
        "octaves lacks 3 of its 127 masks; leave out keep"
    )
    assert not measures[0].applies(Available([CLEAN]))
    assert [name for name in biases() if name.startswith("octave_")] == [*SHARES]
