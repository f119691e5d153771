"""Shape bias follows from published decisions, and has the intervals that other people's code gives."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of
from made_up_results import cell, image_set, model, part, store_study
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.base import Estimate, State
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.families.cue_conflict import cue_differences, cue_estimates
from bandlens.analysis.metrics.predictions import Outcomes
from bandlens.core.protocol import CUES, SHAPE_CUES
from bandlens.probes.images.decision_spaces import decision_space

NAMES = dict(enumerate(decision_space("sixteen").names))
NUMBERS = {name: number for number, name in NAMES.items()}


def read_metrics(store: Store) -> dict[str, tuple[float | None, float | None, float | None, str | None]]:
    compute_measures(store, "s")
    rows = store.frame("SELECT metric, value, low, high, note FROM metric").rows()
    return {metric: tuple(numbers) for metric, *numbers in rows}


def cue_cell(shape: list[int], texture: list[int], predicted: list[int], clusters: list[int] | None = None) -> Outcomes:
    """Clean decisions on images whose two cues are given."""
    images = images_of(len(shape), clusters, (shape, texture))
    return outcomes_of({CLEAN: predicted}, images, NAMES, classes=16)


def estimates(outcomes: Outcomes) -> dict[str, Estimate]:
    return cue_estimates(SHAPE_CUES, outcomes)


# Published decisions


def test_published_decisions_give_the_published_bias(shared: Path, store: Store) -> None:
    """All 1280 images are there; 80 have the shape and the texture of one class and tell nothing."""
    shape_decisions, texture_decisions = 162, 572
    table = pl.read_csv(shared / "published" / "cue_conflict_decisions" / "resnet50.csv")
    cues = [re.findall(r"([a-z]+)\d+", Path(name).stem.rsplit("_", 1)[1]) for name in table["imagename"]]
    assert [shape for shape, _ in cues] == table["category"].to_list()
    shape, texture = ([NUMBERS[name] for name in column] for column in zip(*cues, strict=True))
    decisions = [NUMBERS[name] for name in table["object_response"]]
    images = image_set(1280, labels=shape, schemes={"texture": [[cue] for cue in texture]}, decision_space="sixteen")
    outcome = part(cell(images, by=model(classes=1000)), decisions, np.not_equal(decisions, shape) * 3)
    store_study(store, "s", images, [outcome], {"sixteen": NAMES})
    metrics = read_metrics(store)
    bias = shape_decisions / (shape_decisions + texture_decisions)
    assert metrics["shape_bias"][0] == pytest.approx(bias)
    assert round(bias, 3) == 0.221
    assert metrics["cue_accuracy"][0] == pytest.approx((shape_decisions + texture_decisions) / 1200)
    images_named = shape_decisions + texture_decisions
    for name, count, total in (("shape_bias", shape_decisions, images_named), ("cue_accuracy", images_named, 1200)):
        assert metrics[name][1:3] == pytest.approx(proportion_confint(count, total, method="wilson"), abs=0.002)
    assert set(metrics) == {"shape_bias", "cue_accuracy", *(f"shape_bias_{name}" for name in NUMBERS)}
    bears = np.array(shape) == NUMBERS["bear"]
    shapes, textures = ((np.array(decisions) == cue)[bears & np.not_equal(shape, texture)] for cue in (shape, texture))
    assert metrics["shape_bias_bear"][0] == shapes.sum() / (shapes | textures).sum()


# Intervals, and decisions that determine no bias


def test_few_images_and_equal_decisions_have_the_interval_of_a_share() -> None:
    biases = estimates(cue_cell([0] * 15 + [1] * 30, [1] * 15 + [0] * 30, [0, 1, 2] * 5 + [1] * 30))
    expected = proportion_confint(5, 10, 2 * norm.sf(t.ppf(0.975, 9)), "wilson")
    airplane, bear = biases["shape_bias_airplane"], biases["shape_bias_bear"]
    assert (airplane.value, airplane.low, airplane.high) == pytest.approx((0.5, *expected))
    assert bear.value == 1.0
    assert (bear.low, bear.high) == pytest.approx(proportion_confint(30, 30, method="wilson"))
    estimate = estimates(cue_cell([0] * 3, [1] * 3, [0, 1, 1], clusters=[7] * 3))["shape_bias_airplane"]
    assert estimate.row("")["low"] is None
    assert estimate.note == "1 independent image is too few for an interval"


def test_the_difference_of_two_models_is_paired_over_their_images() -> None:
    rng = np.random.default_rng(0)
    shape, texture = [0] * 400, [1] * 400
    decisions = rng.integers(0, 2, 400)
    other_decisions = np.where(rng.random(400) < 0.2, rng.integers(0, 2, 400), decisions)
    a, b = (cue_cell(shape, texture, list(answers)) for answers in (decisions, other_decisions))
    intervals = cue_differences(SHAPE_CUES, a, b)
    d = (other_decisions == 0).astype(float) - (decisions == 0)
    low, high = intervals["shape_bias"]
    assert (low + high) / 2 == pytest.approx(d.mean())
    # One image of the 400 more differs.
    assert high - low == pytest.approx(2 * 1.99 * np.sqrt((d.var() * 400 + 1) / 399 / 400), rel=0.02)
    low, high = intervals["cue_accuracy"]
    assert 0 < high == -low < 3 / 400, "it does not differ, and little at most"


def test_frequencies_that_conflict_have_the_same_shares_under_their_own_names(store: Store) -> None:
    low, high, decisions = [0, 0, 1, 1, 2, 2], [1, 2, 0, 1, 0, 1], [0, 2, 1, 0, 2, 0]
    conflict = image_set(6, labels=low, schemes={"hf_label": [[cue] for cue in high]}, name="conflict")
    rank = [int(answer != label) for answer, label in zip(decisions, low, strict=True)]
    store_study(store, "s", conflict, [part(cell(conflict, by=model(classes=16)), decisions, rank)])
    metrics = read_metrics(store)
    # The fourth image has one class for both. Of the others 0, 1 and 2 are named for low, 2 and 0 ... for high ones.
    apart = [(n, a, b) for n, a, b in zip(decisions, low, high, strict=True) if a != b]
    low_count, high_count = sum(n == a for n, a, _ in apart), sum(n == b for n, _, b in apart)
    assert (len(apart), low_count, high_count) == (5, 3, 1)
    assert metrics["low_frequency_cue_bias"][0] == 3 / 4
    assert metrics["frequency_cue_accuracy"][0] == 4 / 5
    assert set(metrics) == {f"low_frequency_cue_bias{end}" for end in ("", "_0", "_1", "_2")} | {
        "frequency_cue_accuracy"
    }
    schemes = store.frame("SELECT scheme, n, top1 FROM label_accuracy ORDER BY scheme DESC").rows()
    assert schemes == [("lf_label", 6, 3 / 6), ("hf_label", 6, 1 / 6)]


def test_biases_of_classes_have_the_names_of_their_images_for_their_model(store: Store) -> None:
    """A class is named by its set, or else by the decision space, which is for models of ImageNet's 1000 classes."""
    big_net, pet_net = model("large", classes=1000), model("small", classes=16)
    labels, second_cues = [0, 1], [[1], [0]]
    own_set, photos = (
        image_set(2, name=name, labels=labels, schemes={"hf_label": second_cues}, paths=name) for name in ("ab", "cd")
    )
    own_set = replace(own_set, class_names=["Abyssinian", "Bengal"])
    small_set = image_set(2, name="few", labels=labels, schemes={"texture": second_cues}, decision_space="sixteen")
    cells = [cell(own_set, by=pet_net), cell(photos, by=pet_net), cell(photos, by=big_net), cell(small_set, by=big_net)]
    names = {"all": {0: "tench", 1: "goldfish"}, "sixteen": NAMES}
    store_study(store, "s", [own_set, photos, small_set], [part(cell, labels, [0, 0]) for cell in cells], names)
    compute_measures(store, "s")
    classes = store.frame(
        "SELECT image_set, checkpoint, list_sort(list(regexp_extract(metric, '_bias_(.*)', 1))) FROM metric "
        "WHERE contains(metric, '_bias_') GROUP BY ALL ORDER BY ALL"
    )
    assert classes.rows() == [
        ("ab", "small", ["Abyssinian", "Bengal"]),
        ("cd", "large", ["goldfish", "tench"]),
        ("cd", "small", ["0", "1"]),
        ("few", "large", ["airplane", "bear"]),
    ]


def test_labels_of_first_cues_are_those_that_predictions_are_ranked_by(store: Store) -> None:
    for cues in CUES:
        assert store.frame(f"SELECT own_scheme('{cues.first}'), own_scheme('{cues.second}')").row(0) == (True, False)


def test_a_bias_of_blind_guesses_or_of_few_decisions_says_so() -> None:
    """Blind guesses between 16 classes name a cue in 1 of 8 images, and the shape in half of these."""
    shape, texture = [0] * 400, [1] * 400
    guesses = estimates(cue_cell(shape, texture, [k % 16 for k in range(400)]))["shape_bias"]
    assert (guesses.value, guesses.state) == (0.5, State.AT_CHANCE)
    assert guesses.note == "a cue is named no more often than blind guesses name one, 0.125"
    bias = estimates(cue_cell([0] * 25, [1] * 25, [0] * 12 + [1] * 7 + [9] * 6))["shape_bias"]
    assert (bias.value, bias.state, bias.note) == (12 / 19, State.DOUBTFUL, "it is a share of 19 decisions")
    assert estimates(cue_cell([0] * 25, [1] * 25, [0] * 12 + [1] * 8 + [9] * 5))["shape_bias"].state == State.OK
