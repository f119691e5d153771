"""A plan says which differences between its models a study would most likely find, from what earlier runs tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, image_set, model, part, store_study, store_values
from scipy.stats import norm
from small import Command, make_images, make_model, make_pictures, make_study

from bandlens.analysis.comparison.cells import Run, compare_cells, two_of
from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.analysis.statistics.power import detected_widths, smallest_correlation, smallest_tested_difference
from bandlens.app.study.detectable import Detectable
from bandlens.app.study.file import Study
from bandlens.app.study.plan import plan_study
from bandlens.app.study.resolve import resolve
from bandlens.core.protocol import BIAS_CUTOFFS

FILTERS = "lowpass = {cutoff = [0.1, 0.5]}"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two models, 20 images in 10 clusters, and three conditions."""
    for seed, name in enumerate(("net", "rival")):
        make_model(tmp_path / "models", name, seed=seed)
    make_images(tmp_path / "images.set", make_pictures(20), labels=[k % 12 for k in range(20)], folders=2)
    return make_study(tmp_path, probes=FILTERS)


def planned(study: Path) -> list[Detectable]:
    return plan_study(resolve(Study.read(study)), study.parent / "results.duckdb").detectable


def test_without_earlier_runs_models_differ_on_a_tenth_of_the_images_and_clusters_are_alike(study: Path) -> None:
    [row] = planned(study)
    assert (row.measure, row.tests, row.basis) == ("accuracy", 3, "discordance 10%, assumed")
    assert row.difference == pytest.approx(smallest_tested_difference(20, 0.1, 3, effect=2))


def test_earlier_runs_tell_how_often_models_differ(study: Path, tmp_path: Path) -> None:
    """400 images, on which two models answer as they do in an earlier study: the interval is that of `compare`."""
    images, rng, parts = image_set(400, labels=[0] * 400), np.random.default_rng(0), []
    for name in ("v1", "v2"):
        rank = (rng.random(400) < 0.3).astype(int)
        parts.append(part(cell(images, by=model(name)), rank, rank))
    with open_store(tmp_path / "results.duckdb") as store:
        run = Run(store, store_study(store, "s", images, parts))
        compute_measures(store, "s")
        [pair] = compare_cells(*two_of(run, run, "checkpoint", "v1", "v2")).cells.rows(named=True)
    row = next(row for row in planned(study) if row.measure == "accuracy")
    width = (pair["high"] - pair["low"]) * np.sqrt(400 / 20)
    quantiles = norm.ppf(1 - 0.025 / 3) + norm.ppf(0.8)
    assert row.difference == pytest.approx(width * quantiles / (2 * norm.ppf(0.975)) + 1 / 20)
    assert row.basis == f"discordance {(pair['lost'] + pair['gained']) / 400:.1%} in earlier runs"


def test_intervals_of_earlier_runs_tell_of_biases_and_four_models_of_correlations(study: Path, tmp_path: Path) -> None:
    """Intervals on 400 images are .2 and .4 wide: of a difference on 20 images, .3 sqrt(2) sqrt(20) wide."""
    images, ranks = image_set(400, labels=[0] * 400), np.zeros(400, int)
    parts = [part(cell(images, by=model(name)), ranks, ranks) for name in ("v1", "v2")]
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "s", images, parts)
        query = "SELECT DISTINCT study_id, checkpoint_id, image_set_id FROM study_detail ORDER BY ALL"
        ends = pl.DataFrame({"value": [0.5, 0.5], "low": [0.4, 0.3], "high": [0.6, 0.7]})
        values = pl.concat([store.frame(query), ends], how="horizontal")
        store_values(store, values.with_columns(metric=pl.lit("corrected_low_frequency_bias")))
    for name in ("third", "fourth"):
        make_model(tmp_path / "models", name, seed=len(name))
    accuracy, bias, correlation = planned(make_study(tmp_path, probes=f"lowpass = {{cutoff = {[*BIAS_CUTOFFS]}}}"))
    assert accuracy.measure == "accuracy"
    width = 0.3 * np.sqrt(2) * np.sqrt(400 / 20)
    assert (bias.measure, bias.tests, bias.basis) == ("corrected_low_frequency_bias", 1, "intervals of earlier runs")
    assert bias.difference == pytest.approx(width * detected_widths(1))
    assert (correlation.measure, correlation.difference) == ("correlation", smallest_correlation(4))


def test_it_is_printed_in_a_line_and_in_json(command: Command, study: Path) -> None:
    words = command("plan", study, "--db", study.parent / "results.duckdb").out
    [line] = [line for line in words.splitlines() if line.startswith("smallest difference that 80 % of such studies")]
    assert line.endswith("of two models on images.set: accuracy none (discordance 10%, assumed)")
    [row] = json.loads(command("plan", study, "--db", study.parent / "r.duckdb", "--format", "json").out)["detectable"]
    assert (row["image_set"], row["measure"], row["tests"]) == ("images.set", "accuracy", 3)
