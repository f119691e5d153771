"""Models and people who judged the same images have error consistencies, under one name for each image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, image_set, model, part, store_study, store_trials, trials_of
from numpy.typing import ArrayLike, NDArray
from pairs_of_observers import error_consistency, kappa
from small import Command

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.families.error_consistency import (
    consistencies,
    judged_images,
    mean_consistencies,
)
from bandlens.analysis.published.imports import read_import
from bandlens.analysis.published.sources import sources
from bandlens.analysis.statistics.wilson import independent_share
from bandlens.core.errors import UnknownName
from bandlens.core.protocol import CUE_CONFLICT, STIMULUS_PROBES
from bandlens.core.records import Finished
from bandlens.probes.grid import FAMILIES
from bandlens.probes.images.decision_spaces import decision_space

CLASSES = list(decision_space("sixteen").names)
EXPERIMENTS = {images: probe for images, (probe, _) in STIMULUS_PROBES.items()}


def cell_of(
    images: Images, name: str, hits: ArrayLike, *, probe: str = "clean", content: str = "", **parameters: float | str
) -> Finished:
    """The cell of a model that has these images right, clean by default; of a wrong one it says the next class."""
    assert images.labels is not None
    correct = np.asarray(hits, np.bool_)
    predicted = np.where(correct, images.labels, (images.labels + 1) % 10)
    by = model(name, content=content or name)
    return part(cell(images, condition(probe, **parameters), by=by), predicted, np.where(correct, 0, 1))


def stimuli(name: str, paths: Sequence[str], labels: Sequence[str]) -> Images:
    """A stimulus set as `benchmarks pack` makes it, without pixels."""
    return image_set(
        len(paths),
        name=name,
        labels=[CLASSES.index(label) for label in labels],
        paths=paths,
        benchmark=name,
        decision_space="sixteen",
    )


def people(store: Store, shared: Path) -> pl.DataFrame:
    source = sources()["humans"]
    values, trials = read_import(source, shared / "published/atlas/humans")
    store.write_source("humans", values, trials)
    assert trials is not None
    return trials


def test_people_and_two_networks_on_cue_conflicts(command: Command, shared: Path, tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    with open_store(db) as store:
        people(store, shared)
        for name in ("resnet50", "resnet50_trained_on_SIN"):
            rows = pl.read_csv(shared / f"published/cue_conflict_decisions/{name}.csv", infer_schema=False)
            files = rows["imagename"].str.split("_").list.last()
            paths = [f"{shape}/{file}" for shape, file in zip(rows["category"], files, strict=True)]
            images = stimuli("cue-conflict", paths, rows["category"].to_list())
            outcome = cell_of(images, name, rows["category"] == rows["object_response"])
            store_study(store, name, images, [outcome])
    assert command("analyze", "--db", db).code == 0
    with open_store(db, read_only=True) as store:
        table = store.frame("FROM error_consistency WHERE images = 'cue-conflict'")
        by_two = table.group_by("humans").agg(pl.len(), pl.col("kappa").mean()).sort("humans")
    assert set(table["n"]) == {1280}
    assert [(humans, pairs) for humans, pairs, _ in by_two.rows()] == [(0, 1), (1, 20), (2, 45)]
    assert (table["low"] < table["kappa"]).all()
    assert (table["kappa"] <= table["most"]).all()
    assert set(table["convention"]) == {"model-vs-human"}
    means = json.loads(command("consistency", "cue-conflict", "--db", db, "--format", "json").out)
    ask_all = ("consistency", "cue-conflict", "--db", db, "--format", "json", "--convention", "all")
    means_of_conflicts = json.loads(command(*ask_all).out)
    assert {row["subject"]: (row["pairs"], round(row["kappa to humans"], 3)) for row in means_of_conflicts} == {
        "humans": (45, 0.335),
        "resnet50": (10, 0.054),
        "resnet50_trained_on_SIN": (10, 0.185),
    }
    for row in means + means_of_conflicts:
        assert row["low"] < row["kappa to humans"] < row["high"]
        assert row["lowest"] <= row["kappa to humans"] <= row["highest"]


def resampled_mean_kappas(observers: NDArray[np.float64], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean of Cohen's kappa of all pairs of observers, for each resample of the images.

    observers (m, n) are right 1 or wrong 0, times (R, n) says how often a resample has an image.
    """
    shares = times / times.sum(axis=1, keepdims=True)
    kappas = []
    for first, second in combinations(observers, 2):
        p, q, observed = (shares @ values for values in (first, second, first == second))
        expected = p * q + (1 - p) * (1 - q)
        kappas.append((observed - expected) / (1 - expected))
    return np.mean(kappas, axis=0)


def trials_by(answers: Mapping[str, NDArray[np.bool_]], *conditions: str) -> pl.DataFrame:
    """Trials of people on one stimulus set: observer -> (conditions, images), whether each answer is right."""
    return pl.concat(
        trials_of("contrast", condition, observer, hits, first=1000 * row)
        for observer, right_by_condition in answers.items()
        for row, (condition, hits) in enumerate(zip(conditions, right_by_condition, strict=True))
    )


def test_the_field_leaves_out_controls_and_what_people_hardly_recognize(store: Store) -> None:
    """The oracle is statsmodels' kappa: its mean over the conditions that count, of each pair, and over pairs."""
    random = np.random.default_rng(0)
    shown = {"c100": 0.9, "c30": 0.8, "c05": 0.5, "c01": 0.15}
    share_right = np.array([*shown.values()])[:, None]
    answers = {f"subject-0{number}": random.random((4, 120)) < share_right for number in (1, 2, 3)}
    store_trials(store, trials_by(answers, *shown))
    kappas = np.array([[kappa(*pair) for pair in zip(*two, strict=True)] for two in combinations(answers.values(), 2)])
    for convention, conditions in {"model-vs-human": slice(1, 3), "all": slice(None)}.items():
        [row] = mean_consistencies(store, "contrast", convention)
        assert row["convention"] == convention
        assert row["kappa to humans"] == pytest.approx(kappas[:, conditions].mean(axis=1).mean())
        table = consistencies(store, "contrast", convention)
        assert set(table.select("condition", "convention").rows()) == {
            (name, convention) for name in [*shown][conditions]
        }
    named = store.frame("SELECT condition FROM condition_accuracy WHERE convention = 'all'")
    assert set(named["condition"]) == {"c100", "c01"}


def test_where_nobody_judged_the_same_images_a_line_says_so(command: Command, tmp_path: Path) -> None:
    """It advises to count all conditions only where that may count more of them."""
    db, hits = tmp_path / "results.duckdb", np.ones(9, np.bool_)
    with open_store(db) as store:
        images = image_set(9, name="photos", labels=[0] * 9)
        store_study(store, "s", images, [part(cell(images), [0] * 9, [0] * 9)])
        controls = [trials_of("contrast", "c100", observer, hits) for observer in ("subject-01", "subject-02")]
        store_trials(
            store, *controls, *(trials_of(name, "0", "subject-01", hits) for name in ("rotation", CUE_CONFLICT))
        )
    advice = "of a condition that counts; --convention all counts all"
    assert advice in command("consistency", "contrast", "--db", db).err
    for words in (["photos"], ["rotation", "--convention", "all"], [CUE_CONFLICT]):
        assert "no two judged the same images\n" in command("consistency", *words, "--db", db).err


def test_the_field_counts_cue_conflicts_whose_cues_are_the_same(store: Store) -> None:
    random = np.random.default_rng(0)
    answers = [random.random(80) < 0.7 for _ in range(2)]
    images = [f"bear{k}-{'bear' if k % 4 == 0 else 'cat'}{k}.png" for k in range(80)]
    trials = [trials_of("cue-conflict", "0", f"subject-0{number}", hits) for number, hits in enumerate(answers)]
    store_trials(store, *(person.with_columns(image=pl.Series(images)) for person in trials))
    conflicting = np.arange(80) % 4 > 0
    for convention, counted in {"model-vs-human": np.ones(80, bool), "all": conflicting}.items():
        [row] = mean_consistencies(store, "cue-conflict", convention)
        assert row["kappa to humans"] == pytest.approx(kappa(*(hits[counted] for hits in answers)))
    assert set(store.frame("FROM condition_accuracy")["n"]) == {60}


def test_the_interval_of_a_mean_kappa_draws_an_image_under_all_conditions_together(store: Store) -> None:
    random = np.random.default_rng(0)
    hard = random.random(300)
    rights = {
        name: np.stack([hard + random.normal(0, 0.3, 300) < share for share in (0.8, 0.5)])
        for name in ("subject-01", "subject-02", "subject-03")
    }
    store_trials(store, trials_by(rights, "c30", "c05"))
    [row] = mean_consistencies(store, "contrast")
    times = random.multinomial(300, np.full(300, 1 / 300), 2000)
    by_condition = [
        resampled_mean_kappas(observers, times)
        for observers in np.stack([*rights.values()]).astype(float).swapaxes(0, 1)
    ]
    low, high = np.quantile(np.mean(by_condition, axis=0), [0.025, 0.975])
    assert (row["subject"], row["pairs"]) == ("humans", 3)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_a_mean_kappa_that_nothing_determines_has_no_numbers(store: Store) -> None:
    """An observer without errors has no kappa, and one image makes no interval."""
    never_wrong = {"subject-01": np.ones((1, 9), bool), "subject-02": np.arange(9)[None] > 3}
    store_trials(store, trials_by(never_wrong, "c30"))
    [row] = mean_consistencies(store, "contrast")
    assert row.pop("subject") == "humans"
    assert (row.pop("pairs"), row.pop("convention")) == (1, "model-vs-human")
    assert row == dict.fromkeys(("kappa to humans", "low", "high", "lowest", "highest"))


def test_intervals_do_not_depend_on_the_order_in_which_answers_were_stored(store: Store) -> None:
    random = np.random.default_rng(0)
    rights = {f"subject-0{number}": random.random((1, 60)) < 0.7 for number in (1, 2, 3)}
    trials = trials_by(rights, "c30")
    results = []
    for rows in (trials, trials.sample(fraction=1, shuffle=True, seed=1)):
        store_trials(store, rows)
        results.append((consistencies(store, "contrast").rows(), mean_consistencies(store, "contrast")))
    assert results[0] == results[1]


def test_a_model_stands_beside_people_by_condition(store: Store, shared: Path) -> None:
    """Trials and files of one experiment have names that differ in the observer alone."""
    trials = people(store, shared)
    observer = pl.read_parquet(shared / "published/atlas/humans/trials.parquet").filter(
        set="low-pass", subj="subject-01"
    )
    paths = [f"dnn/session-1/{name.replace('_s01_', '_dnn_')}" for name in observer["imagename"]]
    images = stimuli("low-pass", paths, observer["category"].to_list())
    hits = (observer["category"] == observer["object_response"]).to_numpy()
    store_study(store, "study", images, [cell_of(images, "copy of subject-01", hits)])
    rows = store.frame("FROM condition_accuracy WHERE images = 'low-pass'")
    copy = rows.filter(subject="copy of subject-01").select("condition", "n", "top1", "low", "high").sort("condition")
    person = rows.filter(subject="subject-01").select("condition", "n", "top1", "low", "high").sort("condition")
    assert copy.equals(person)
    assert len(copy) == 8
    assert set(copy["n"]) == {160}
    intervals = store.frame(
        "SELECT value / 100, published.low / 100, published.high / 100, top1, mine.low, mine.high "
        "FROM published_value AS published JOIN condition_accuracy AS mine "
        "ON model = images || ' ' || subject AND published.condition = mine.condition WHERE images <> 'cue-conflict'"
    )
    assert len(intervals) > 300
    assert intervals.to_numpy()[:, :3] == pytest.approx(intervals.to_numpy()[:, 3:], abs=1e-6)
    table = consistencies(store, "low-pass")
    pairs = table.filter(first_subject="subject-01", second_subject="copy of subject-01").drop_nulls("kappa")
    assert pairs["kappa"].to_list() == pytest.approx([1] * len(pairs))
    conditions = set(trials.filter(stimulus_set="low-pass")["condition"])
    assert set(table["condition"]) == conditions - {"0", "15", "40"}
    assert {row["subject"]: row["pairs"] for row in mean_consistencies(store, "low-pass")} == {
        "humans": 6,
        "copy of subject-01": 4,
    }


def test_dependent_images_beside_people_count_as_fewer_and_clusters_of_two_sets_are_kept_apart(store: Store) -> None:
    """The interval of a model is that of the view accuracy, and people who answer alike have the same."""
    paths = np.array([f"0_con_dnn_c30_bear_0_n0_{place}.png" for place in range(60)])
    hits, clusters = np.arange(60) % 15 < 9, np.arange(60) // 3
    bears = [CLASSES.index("bear")] * 60
    about: dict[str, Any] = {"labels": bears, "benchmark": "contrast", "decision_space": "sixteen"}
    images = image_set(60, name="a", paths=paths.tolist(), clusters=clusters, **about)
    # Another model saw the same files in reverse, where their clusters have other numbers.
    reverse = image_set(60, name="b", paths=paths[::-1].tolist(), clusters=clusters, **about)
    store_study(store, "study", [images, reverse], [cell_of(images, "a", hits), cell_of(reverse, "b", hits[::-1])])
    store_trials(store, trials_of("contrast", "c30", "subject-01", hits))
    rows = store.frame("SELECT subject, n, top1, low, high FROM condition_accuracy ORDER BY ALL").rows()
    assert [subject for subject, *_ in rows] == ["a", "b", "subject-01"]
    [expected, _] = store.frame("SELECT n, top1, low, high FROM accuracy").rows()
    for _, *numbers in rows:
        assert numbers == pytest.approx(expected)
    assert expected[2] < independent_share(36, 60).ends()[0] - 0.05
    person = np.random.default_rng(0).random(60) < 0.7
    store_trials(store, trials_of("contrast", "c30", "subject-01", person))
    possible = [error_consistency(person, hits, numbers, 1000) for numbers in (clusters, clusters[::-1])]
    for ends in consistencies(store, "contrast").filter(humans=1).select("low", "high").rows():
        assert any(ends == pytest.approx((estimate.low, estimate.high)) for estimate in possible)
    means = {row["subject"]: (row["low"], row["high"]) for row in mean_consistencies(store, "contrast")}
    assert means["a"] == means["b"]


def test_every_published_condition_of_five_experiments_is_one_of_a_probe_and_none_is_left(
    store: Store, shared: Path
) -> None:
    """Models under the probes' published settings stand beside the people who judged the published stimuli."""
    trials = people(store, shared)
    images = image_set(4, labels=[1, 2, 3, 4], name="mine", decision_space="sixteen")
    cells = [
        cell_of(images, "net", np.ones(4, bool), probe=name, **dict(setting.parameters))
        for name in (*EXPERIMENTS.values(), "phase_shift")  # the textbook's phases, which nobody saw
        for setting in FAMILIES[name].conditions({})
    ]
    store_study(store, "study", images, cells)
    rows = store.frame("FROM human_probe")
    for experiment, probe in EXPERIMENTS.items():
        models, humans = (rows.filter(probe=probe, human=human) for human in (False, True))
        assert set(humans["images"]) == {experiment}
        assert set(models["setting"]) == set(humans["setting"])
        assert len(models) == trials.filter(stimulus_set=experiment)["condition"].n_unique()
    assert set(rows["probe"]) == set(EXPERIMENTS.values())
    blurred = rows.filter(probe="gaussian_lowpass", setting=10, human=True)
    assert blurred["top1"].mean() == pytest.approx(0.380, abs=0.0005)  # the mean of four observers, as published
    faint = rows.filter(probe="contrast", setting=0.05, human=True).sort("subject")
    accuracies = store.frame("FROM condition_accuracy WHERE images = 'contrast' AND condition = 'c05'").sort("subject")
    assert faint["top1"].equals(accuracies["top1"])


def test_models_alone_as_their_vectors_say(store: Store) -> None:
    random = np.random.default_rng(0)
    hits = random.random((3, 200)) < np.array([[0.8], [0.6], [0.7]])
    images = image_set(200, labels=[3] * 200, clusters=np.arange(200) // 4)
    parts = [cell_of(images, name, row) for name, row in zip("abc", hits, strict=True)]
    perturbed = cell_of(images, "a", ~hits[0], probe="lowpass")
    store_study(store, "study", images, [*parts, perturbed])
    assert judged_images(store) == ["set"]
    table = consistencies(store, "set")
    assert table.select("first_subject", "second_subject").rows() == [("a", "b"), ("a", "c"), ("b", "c")]
    for row, (first, second) in zip(table.to_dicts(), ((0, 1), (0, 2), (1, 2)), strict=True):
        expected = error_consistency(hits[first], hits[second], np.arange(200) // 4, 1000)
        assert {name: row[name] for name in ("n", "kappa", "low", "high", "most")} == pytest.approx(
            {name: getattr(expected, name) for name in ("n", "kappa", "low", "high", "most")}
        )
        assert (row["humans"], row["condition"]) == (0, "")


def test_two_models_of_one_name_are_told_apart_and_one_model_of_two_cells_counts_once(store: Store) -> None:
    images = image_set(20, labels=[3] * 20)
    hits = np.arange(20) % 3 > 0
    int8_part = part(cell(images, by=model("net"), precision="int8"), [0] * 20, [1] * 20)
    store_study(store, "first", images, [cell_of(images, "net", hits), cell_of(images, "other", ~hits)])
    store_study(store, "second", images, [cell_of(images, "net", ~hits, content="trained again")])
    store_study(store, "third", images, [int8_part])
    pairs = consistencies(store, "set")
    assert pairs.select("first_subject", "second_subject", "n").rows() == [
        ("net (first@1)", "net (second@1)", 20),
        ("net (first@1)", "other", 20),
        ("net (second@1)", "other", 20),
    ]


def test_images_that_nobody_judged_are_named(store: Store) -> None:
    images = image_set(3, labels=[3] * 3)
    store_study(store, "study", images, [cell_of(images, "a", [True, False, True])])
    advice = "unknown image set 'cue-conflict'; known: set; .* gets people by `bandlens published import humans`"
    with pytest.raises(UnknownName, match=advice):
        consistencies(store, "cue-conflict")
    assert consistencies(store, "set").is_empty()


def test_sets_of_one_name_are_other_images(store: Store) -> None:
    """A name that a single set has, whoever calls it so, stands alone."""
    hits = np.arange(20) % 3 > 0
    images_a, images_b = (image_set(20, labels=[label] * 20) for label in (3, 4))
    store_study(store, "first", images_a, [cell_of(images_a, "a", hits), cell_of(images_a, "c", ~hits)])
    store_study(store, "second", images_b, [cell_of(images_b, "b", hits), cell_of(images_b, "c", hits)])
    store_study(store, "third", images_a, [cell_of(images_a, "b", hits)])
    assert judged_images(store) == ["set (first)", "set (second)"]
    assert judged_images(store, "third") == ["set (first)"]
    pairs = consistencies(store, "set (first)").select("first_subject", "second_subject").rows()
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert consistencies(store, "set (second)").select("first_subject", "second_subject").rows() == [("b", "c")]
    with pytest.raises(UnknownName, match=r"unknown image set 'set'; did you mean set \(first\) or set \(second\)"):
        consistencies(store, "set")
