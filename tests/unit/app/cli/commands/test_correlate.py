import json
import re
from inspect import signature
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
from made_up_results import cell, image_set, model, part, store_study, store_values
from small import refused_here, run_here

from bandlens.analysis.correlations.table import SCHEMA
from bandlens.analysis.database.open import open_store
from bandlens.analysis.published.robustness import BASELINES
from bandlens.analysis.statistics.coefficients import METHODS
from bandlens.app.cli.commands.results import COMMANDS


def study(db: Path, models: int, category: str = "own", metrics: bool = True, constant: str | None = None) -> None:
    """`models` models on two labelled sets and one without labels, with two metrics, and one that does not vary."""
    sets = [image_set(60 + k, name=letter, labels=None if k == 2 else [0] * (60 + k)) for k, letter in enumerate("abc")]
    rng = np.random.default_rng(0)
    nets = [model(f"net{k}", category=category if k % 2 else "own") for k in range(models)]
    parts = []
    for k, net in enumerate(nets):
        for images in sets:
            rank = (rng.random(images.info.count) < 0.1 + 0.08 * k).astype(int)
            parts.append(part(cell(images, by=net), rank, rank if images.labels is not None else None))
    with open_store(db) as store:
        label = store_study(store, "s", sets, parts)
        ids = store.frame(
            "SELECT DISTINCT study_id, checkpoint_id, image_set_id, checkpoint FROM study_detail_of(?) "
            "WHERE image_set = 'a' ORDER BY checkpoint",
            [label],
        )
        value = np.arange(float(models)) ** 2
        rows = [
            ids.with_columns(pl.Series("value", values), metric=pl.lit(metric))
            for metric, values in (
                ("low_frequency_bias", value),
                ("high_frequency_bias", -value),
                (constant, np.ones(models)),
            )
            if metric
        ]
        if metrics:
            store_values(store, pl.concat(rows).with_columns(low=pl.col("value") - 1, high=pl.col("value") + 1))


def test_the_published_figures_are_the_default() -> None:
    page = run_here("correlate")
    for words in ("All models (n = 48)", "Adversarially trained models (n = 15)", "Other models (n = 33)", "given ID"):
        assert words in page
    notes = dict(re.findall(r"^ +(\d+)   (.+)$", page, re.MULTILINE))
    row = next(line for line in page.splitlines() if line.split()[:2] == ["critical_bandwidth", "ID"])
    texts = [notes[number] for number in row.rpartition("   ")[2].split(", ")]
    assert texts == ["ID itself is what partial holds fixed", "critical_bandwidth has 20 different values"]
    *_, names, _, counts = page.splitlines()
    assert counts.split() == ["72", "40", "40", "36", "19", "0.57", "to", "0.85"], "of 22 below 0.05, 3 are of ratios"
    assert names.split() == ["tested", "p", "p_permutation", "p_bh", "holds", "detectable"]


def test_what_can_be_chosen_is_what_there_is() -> None:
    """The command spells the choices out, so that its help needs no NumPy."""
    options = signature(COMMANDS["correlate"]).parameters
    method, baseline = (get_args(options[name].annotation)[0] for name in ("method", "baseline"))
    assert (get_args(method), get_args(get_args(baseline)[0])) == ((*METHODS,), (*BASELINES,))


def test_json_has_every_column_of_every_row() -> None:
    rows = json.loads(run_here("correlate", "--method", "pearson", "--bias", "shape_bias", "--format", "json"))
    assert len(rows) == 12
    assert list(rows[0]) == list(SCHEMA)
    assert {row["method"] for row in rows} == {"pearson"}


def test_a_database_is_correlated_with_its_own_accuracies_and_intervals(tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    study(db, 10, category="adversarial_training")
    rows = json.loads(run_here("correlate", "--db", db, "--format", "json"))
    pairs = [(row["bias"], row["group"], row["subset"]) for row in rows]
    subsets = ("total", "adversarial_training", "other")
    assert sorted(pairs) == sorted(
        (bias, group, subset)
        for bias in ("high_frequency_bias", "low_frequency_bias")
        for group in ("top1 a", "top1 b")
        for subset in subsets
    )
    totals = {row["bias"]: row["coefficient"] for row in rows if row["subset"] == "total"}
    assert totals["low_frequency_bias"] < -0.8 < 0.8 < totals["high_frequency_bias"]
    assert {row["subset"]: row["n"] for row in rows} == dict(zip(subsets, (10, 5, 5), strict=True))
    assert rows[0]["low_images"] is not None
    assert rows[0]["partial"] is None  # there is no image set of the benchmark imagenet


def test_a_bias_that_does_not_vary_is_a_row_without_an_interval_and_the_others_keep_theirs(tmp_path: Path) -> None:
    db, name = tmp_path / "results.duckdb", "critical_bandwidth"
    study(db, 9, constant=name)
    rows = [
        row for row in json.loads(run_here("correlate", "--db", db, "--format", "json")) if row["group"] == "top1 a"
    ]
    intervals = {row["bias"]: [row["low"] is not None, row["low_images"] is not None] for row in rows}
    assert intervals == {"high_frequency_bias": [True] * 2, "low_frequency_bias": [True] * 2, name: [False] * 2}


def test_effective_robustness_of_a_database_is_correlated(tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    study(db, 5)
    with open_store(db) as store:
        models = store.frame("SELECT DISTINCT study_id, checkpoint_id FROM study_detail ORDER BY ALL").rows()
        for k, (study_id, checkpoint_id) in enumerate(models):
            for metric, value in (("top1_imagenet", 60 + 4 * k), ("top1_imagenet-v2", 45 + k**2)):
                store.execute(
                    "INSERT INTO measure_value (study, checkpoint, metric, value, state) VALUES (?, ?, ?, ?, 'ok')",
                    [study_id, checkpoint_id, metric, value],
                )
    words = ("--db", db, "--target", "effective", "--bias", "low_frequency_bias", "--format", "json")
    rows = json.loads(run_here("correlate", *words))
    [(group, n)] = [(row["group"], row["n"]) for row in rows]
    assert (group, n) == ("effective_imagenet-v2", 5)


def test_what_cannot_be_correlated_is_told_in_one_line(tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    study(db, 1)
    assert "s@1: 1 model, and a correlation needs 4; run" in refused_here("correlate", "--db", db)
    misspelt = refused_here("correlate", "--db", db, "--bias", "shaep_bias")
    assert misspelt.startswith("unknown bias 'shaep_bias'; did you mean shape_bias"), "it is said before few models"
    study(db.with_name("none.duckdb"), 5, metrics=False)
    assert "no metrics; run `bandlens analyze" in refused_here("correlate", "--db", db.with_name("none.duckdb"))
    with open_store(db) as store:
        images = image_set(10, labels=[0] * 10)
        store_study(store, "two", images, [part(cell(images), [0] * 10, [0] * 10)])
    assert "holds the studies s, two; name one of them with --study" in refused_here("correlate", "--db", db)
    assert "unknown bias 'shape'; did you mean shape_bias" in refused_here("correlate", "--bias", "shape")
