"""Group means have values by NumPy, intervals by statsmodels, and names and figures as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from made_up_results import Images, cell, condition, image_set, model, part, store_study
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.core.protocol import (
    ACCURACIES,
    BENCHMARKS,
    EPS,
    GROUPS,
    IMAGENET_C,
    IMAGENET_CBAR,
    SEVERITIES,
    STEP,
    STEPS,
    STIMULI,
)
from bandlens.core.records import Finished

PUBLISHED_PGD = condition("pgd_linf", eps=EPS, step=STEP, steps=STEPS)
Outcomes = Mapping[str, NDArray[np.bool_]]
Row = dict[str, Any]


# Published figures


def test_every_accuracy_is_of_a_benchmark_that_can_be_packed() -> None:
    assert {accuracy.benchmark for accuracy in ACCURACIES.values()} <= set(BENCHMARKS)
    assert set(BENCHMARKS) - set(ACCURACIES) == set(STIMULI) - {"stylized"}


# A study of all of it, with few photographs


@cache
def sets() -> dict[str, Images]:
    """Forty photographs, corrupted in every way, and a few of each other benchmark."""
    rng = np.random.default_rng(1)
    benchmarks = {
        "imagenet": images("imagenet", 40, schemes={"real": [[0, 1], [0], [2], []] * 10}),
        "imagenet-v2": images("imagenet-v2", 30, own_names=True),
        "imagenet-a": images("imagenet-a", 25, own_names=True, decision_space="imagenet-a"),
        "imagenet-r": images("imagenet-r", 35, own_names=True, decision_space="imagenet-r"),
        "imagenet-sketch": images("imagenet-sketch", 20, own_names=True),
        "stylized": images("stylized", 16, own_names=True, decision_space="sixteen"),
    }
    for name, corruptions in (("imagenet-c", IMAGENET_C), ("imagenet-cbar", IMAGENET_CBAR)):
        for corruption in corruptions:
            for severity in SEVERITIES:
                count = int(rng.integers(30, 41))  # the sets share photographs
                benchmarks[f"{corruption}_{severity}"] = images(name, count, corruption=corruption, severity=severity)
    return benchmarks


def images(name: str, count: int, own_names: bool = False, **about: Any) -> Images:
    files = [f"{k}.jpg" if own_names else f"n01440764/ILSVRC2012_val_{k:08d}.JPEG" for k in range(1, count + 1)]
    set_name = "-".join([name, *(str(about[key]) for key in ("corruption", "severity") if key in about)])
    return image_set(count, name=set_name, benchmark=name, labels=np.zeros(count), paths=files, **about)


def outcomes(seed: int) -> Outcomes:
    """Right or wrong; a photograph that is easy is so in every set. `pgd` is of imagenet."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(size=40)
    skill = {name: 0.2 + 0.6 * rng.random() for name in (*sets(), "pgd")}
    answers = {name: (ease if _is_imagenet(name) else rng.uniform(size=40)) < share for name, share in skill.items()}
    return {name: hits[: 40 if name == "pgd" else sets()[name].info.count] for name, hits in answers.items()}


def _is_imagenet(name: str) -> bool:
    return name == "pgd" or name == "imagenet" or sets()[name].info.corruption is not None


def study(correct: Outcomes, name: str = "net") -> list[Finished]:
    by = model(name, classes=1000)
    clean = [
        part(cell(images, by=by), ~correct[key] * 2, ~correct[key] * 2)
        for key, images in sets().items()
        if key in correct
    ]
    pgd = [correct["pgd"]] if "pgd" in correct else []
    return clean + [part(cell(sets()["imagenet"], PUBLISHED_PGD, by=by), ~hits * 2, ~hits * 2) for hits in pgd]


def analyze(
    store: Store, parts: Sequence[Finished], image_sets: Sequence[Images] | None = None, name: str = "s"
) -> dict[str, Row]:
    """Metric -> its row, of a study of one checkpoint; none of them of an image set."""
    keys = {part.cell.image_set.digest for part in parts}
    store_study(store, name, image_sets or [images for images in sets().values() if images.info.digest in keys], parts)
    compute_measures(store, name)
    rows = store.frame("SELECT * FROM metric WHERE study = ?", [name]).to_dicts()
    assert all(row["image_set"] is None for row in rows)
    return {row["metric"]: row for row in rows}


def real_hits(correct: Outcomes) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(hit, photograph) of the images that ReaL gives a list; a right prediction is 0, a wrong one 2."""
    hits = correct["imagenet"]
    lists = [[0, 1], [0], [2], []] * 10
    indices = [k for k, classes in enumerate(lists) if classes]
    return np.array([(0 if hits[k] else 2) in lists[k] for k in indices]), np.array(indices)


def members(correct: Outcomes, group: str) -> list[list[tuple[NDArray[np.bool_], NDArray[np.int64]]]]:
    """(hit, photograph) of each set of each benchmark of a group. Photographs of their own count from 1000."""
    first = iter(range(1000, 10_000, 1000))
    pairs = {
        name: [(hits, np.arange(len(hits)) + (0 if _is_imagenet(name) else next(first)))]
        for name, hits in correct.items()
    }
    names = {name: [key for key, images in sets().items() if images.info.benchmark == name] for name in BENCHMARKS}
    by_name = {name: [pairs[key][0] for key in keys] for name, keys in names.items() if keys}
    by_name |= {"pgd_linf": pairs["pgd"], "imagenet-real": [real_hits(correct)]}
    return [by_name[name] for name in GROUPS[group]]


@pytest.fixture(scope="module")
def rows(shared_store: Store) -> dict[str, Row]:
    """Metric -> its row, for the whole study of `outcomes(0)`."""
    return analyze(shared_store, study(outcomes(0)), name="whole")


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_the_mean_of_its_benchmarks_with_an_interval_over_photographs(
    rows: dict[str, Row], group: str
) -> None:
    """A linear model has a mean for each set and its variance; the ends solve the equation of the interval."""
    row, benchmarks = rows[group], members(outcomes(0), group)
    parts = [pair for benchmark in benchmarks for pair in benchmark]
    weights = np.array([1 / len(benchmark) / len(benchmarks) for benchmark in benchmarks for _ in benchmark])
    hits, photographs = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    set_ids = np.repeat(np.arange(len(parts)), [len(answers) for answers, _ in parts])
    fit = sm.OLS(hits, np.eye(len(parts))[set_ids]).fit(
        cov_type="cluster", cov_kwds={"groups": photographs, "use_correction": False}
    )
    clusters, share = len(np.unique(photographs)), float(weights @ fit.params)
    variance = weights @ fit.cov_params() @ weights * (clusters / (clusters - 1) if clusters < len(hits) else 1)
    images = share * (1 - share) / variance
    assert row["value"] == pytest.approx(100 * share)
    image_weights = np.repeat(weights, [len(answers) for answers, _ in parts]) / np.bincount(set_ids)[set_ids]
    squares, squared_weights = (
        np.bincount(np.unique(photographs, return_inverse=True)[1], numbers) ** 2
        for numbers in (image_weights * fit.resid, image_weights)
    )
    unseen = 2 * squared_weights.sum() * (squared_weights.sum() - np.square(image_weights).sum())

    def lower_end(share: float, first_end: float) -> float:
        freedom = min(clusters - 1, 2 * (squares.sum() + unseen * first_end**2) ** 2 / (squares**2).sum())
        quantile = t.ppf(0.975, freedom if clusters < len(hits) else np.inf)
        variance = Polynomial([0, 1 / images, unseen - 1 / images])
        return float((Polynomial([share, -1]) ** 2 - quantile**2 * variance).roots().min())

    low, high = (lower_end(side, lower_end(side, 0)) for side in (share, 1 - share))
    assert (row["low"], row["high"]) == pytest.approx((100 * low, 100 * (1 - high)), abs=1e-4)


def test_each_benchmark_has_its_accuracy_in_percent_and_what_is_not_whole_says_so(rows: dict[str, Row]) -> None:
    correct = outcomes(0)
    assert set(rows) == {f"top1_{name}" for name in ACCURACIES} | set(GROUPS)
    for name in ("imagenet", "imagenet-v2", "imagenet-a", "imagenet-r", "imagenet-sketch", "stylized"):
        n = len(correct[name])
        alpha = 2 * norm.sf(t.ppf(0.975, n - 1)) if n < 30 else 0.05
        interval = proportion_confint(correct[name].sum(), n, alpha, "wilson")
        numbers = [rows[f"top1_{name}"][key] for key in ("value", "low", "high")]
        assert numbers == pytest.approx([100 * correct[name].mean(), 100 * interval[0], 100 * interval[1]], abs=1e-4)
    assert {rows[name]["state"] for name in ("top1_imagenet-v2", "top1_imagenet-c", "Concepts")} == {"doubtful"}
    assert rows["top1_imagenet-v2"]["note"] == "30 of 10,000 images"
    assert rows["top1_imagenet-real"]["value"] == pytest.approx(100 * real_hits(correct)[0].mean())
    assert rows["Concepts"]["note"] == (
        "imagenet-sketch: 20 of 50,889 images; imagenet-r: 35 of 30,000 images; stylized: 16 of 800 images"
    )


# Missing sets and cells


def only(*names: str) -> list[Finished]:
    return study({name: outcomes(2)[name] for name in names})


def test_an_incomplete_group_has_no_value_and_names_what_is_missing(shared_store: Store) -> None:
    corrupted = {"gaussian_noise_1", "fog_3", "saturate_5"}
    absent = {name for name, images in sets().items() if images.info.corruption} - corrupted | {
        "imagenet-a",
        "stylized",
    }
    correct = {name: hits for name, hits in outcomes(0).items() if name not in absent}
    rows = analyze(shared_store, study(correct), name="incomplete")
    assert {group for group in GROUPS if rows[group]["value"] is None} == {"Robustness", "Concepts"}
    lacks = "lacks gaussian_noise 2, gaussian_noise 3, gaussian_noise 4 and 89 more"
    assert rows["top1_imagenet-c"]["note"] == lacks
    assert (
        rows["Robustness"]["note"] == f"incomplete: imagenet-a is missing, imagenet-c {lacks}, imagenet-cbar is missing"
    )
    assert (rows["Robustness"]["low"], rows["Robustness"]["high"]) == (None, None)
    assert rows["Concepts"]["note"] == "incomplete: stylized is missing"
    assert {rows[name]["state"] for name in ("top1_imagenet-c", "Robustness", "Concepts")} == {"missing"}
    assert "top1_imagenet-a" not in rows


def test_a_cell_that_is_not_complete_is_missing(store: Store) -> None:
    renditions, *rest = only("imagenet-r", "imagenet-sketch", "stylized")
    parts = [*rest, part(renditions.cell, [0] * 10, [0] * 10)]
    assert analyze(store, parts)["Concepts"]["note"] == "incomplete: imagenet-r is missing"


def test_a_study_of_imagenet_alone_has_no_groups_and_one_of_none_of_them_nothing(store: Store) -> None:
    photos = images("imagenet", 40)
    assert set(analyze(store, [part(cell(photos), np.zeros(40), np.zeros(40))], [photos])) == {"top1_imagenet"}
    no_benchmark = image_set(40, labels=np.zeros(40))
    assert analyze(store, [part(cell(no_benchmark), np.zeros(40), np.zeros(40))], [no_benchmark]) == {}


def test_another_budget_is_another_attack(store: Store) -> None:
    for changes in ({"steps": 20}, {"eps": 1 / 255}, {"band": "0.0 to 0.3"}):
        attack = condition("pgd_linf", **{"eps": EPS, "step": STEP, "steps": STEPS, **changes})
        parts = [*only("imagenet"), part(cell(sets()["imagenet"], attack, by=model(classes=1000)), [0] * 40, [0] * 40)]
        assert "Adversarial" not in analyze(store, parts)


def test_of_several_sets_of_one_benchmark_the_largest_stands_for_it(store: Store) -> None:
    small_set = images("imagenet-v2", 10, own_names=True, decision_space="imagenet-r")
    small_set = replace(small_set, info=replace(small_set.info, name="few"))
    parts = [part(cell(small_set, by=model(classes=1000)), [0] * 10, [0] * 10)]
    rows = analyze(store, parts, [small_set])
    assert rows["top1_imagenet-v2"]["note"] == "10 of 10,000 images; decided among imagenet-r classes instead of all"
    rows = analyze(store, [*only("imagenet-v2"), *parts], [sets()["imagenet-v2"], small_set])
    assert rows["top1_imagenet-v2"]["value"] == pytest.approx(100 * outcomes(2)["imagenet-v2"].mean())
    assert rows["top1_imagenet-v2"]["note"] == "30 of 10,000 images; the largest of several sets, imagenet-v2"


def test_every_checkpoint_has_its_own(store: Store) -> None:
    right_by_name = {name: {"pgd": outcomes(seed)["pgd"]} for seed, name in enumerate(("one", "two"))}
    parts = [outcome for name, hits in right_by_name.items() for outcome in study(hits, name)]
    store_study(store, "s", sets()["imagenet"], parts)
    compute_measures(store, "s")
    rows = store.frame("SELECT checkpoint, value FROM metric WHERE metric = 'Adversarial' ORDER BY ALL").rows()
    assert rows == [(name, pytest.approx(100 * hits["pgd"].mean())) for name, hits in right_by_name.items()]


# All of ImageNet's validation set


def test_real_takes_the_images_that_it_accepts_a_class_for_without_a_doubt(store: Store) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(50_000) // 50)
    accepted = rng.random(50_000) < 0.93
    lists = [[int(label)] if in_list else [] for label, in_list in zip(labels, accepted, strict=True)]
    full_set = image_set(50_000, labels=labels, schemes={"real": lists}, benchmark="imagenet-real")
    hits = rng.random(50_000) < np.where(accepted, 0.75, 0.95)
    predicted = np.where(hits, labels, (labels + 1) % 1000)
    v2 = images("imagenet-v2", 30, own_names=True)
    by = model(classes=1000)
    parts = [part(cell(full_set, by=by), predicted, ~hits * 2), part(cell(v2, by=by), [0] * 30, [0] * 10 + [3] * 20)]
    rows = analyze(store, parts, [full_set, v2])
    share, real_share = hits.mean(), hits[accepted].mean()
    assert rows["top1_imagenet"]["value"] == pytest.approx(100 * share)
    assert rows["top1_imagenet-real"]["value"] == pytest.approx(100 * real_share)
    assert (rows["top1_imagenet-real"]["state"], rows["top1_imagenet-real"]["note"]) == ("ok", None)
    assert rows["ID"]["value"] == pytest.approx(100 * (share + 1 / 3 + real_share) / 3)
