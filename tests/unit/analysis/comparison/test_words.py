"""A sentence says how two runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, image_set, model, part, store_study

from bandlens.analysis.comparison.cells import CELLS, Run, two_of
from bandlens.analysis.comparison.runs import compare_runs
from bandlens.analysis.comparison.words import in_words
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.core.protocol import BIAS_CUTOFFS

METRIC = ("checkpoint", "image_set", "metric", "difference", "low", "high", "state_a", "state_b")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    """The runs have the names that the sentence says; it reads no row of theirs."""
    with open_store(tmp_path / "results.duckdb") as store:
        return Run(store, "s@1", "checkpoint", "v1", "v1, v2"), Run(store, "s@1", "checkpoint", "v2", "v1, v2")


def metrics(*rows: Sequence[object]) -> pl.DataFrame:
    types = [pl.String] * 3 + [pl.Float64] * 3 + [pl.String] * 2
    frame = pl.DataFrame(list(rows), dict(zip(METRIC, types, strict=True)), orient="row")
    return frame.with_columns(detectable=pl.col("high") - pl.col("low"))


def cells(*rows: Sequence[object]) -> pl.DataFrame:
    """Cells of two runs, from rows of (image set, probe, difference, p_holm)."""
    columns = ("image_set", "probe", "difference", "p_holm")
    frame = pl.DataFrame(list(rows), {name: CELLS[name] for name in columns}, orient="row")
    return frame.with_columns(
        checkpoint=pl.lit("v1, v2"),
        p="p_holm",
        low=pl.col("difference") - 0.01,
        high=pl.col("difference") + 0.01,
        detectable=pl.col("difference").abs(),
    )


LOW = ("v1, v2", "set", "low_frequency_bias", -0.021, -0.034, -0.008, "ok", "ok")


@pytest.mark.parametrize(
    ("clusters", "words"),
    [
        ([0, 1], "1 cell (none could have been); the interval that reaches farthest is -0.500 [-1.000, +1.000]"),
        ([0, 0], "1 cell (none could have been); there is no interval, since no two images are independent"),
    ],
)
def test_nothing_is_found_with_two_images(tmp_path: Path, clusters: list[int], words: str) -> None:
    """Not even a difference of 1, so that no number above it is told."""
    images = image_set(2, labels=[0, 0], clusters=clusters)
    with open_store(tmp_path / "r.duckdb") as store:
        nets = {"a": [0, 0], "b": [0, 1]}
        parts = [part(cell(images, by=model(name)), rank, rank) for name, rank in nets.items()]
        label = store_study(store, "s", images, parts)
        comparison = compare_runs(*two_of(Run(store, label), Run(store, label), "checkpoint", *nets))
    assert comparison.verdict.findings == [f"No difference was found between a and b in {words}."]
    assert comparison.cells["detectable"].to_list() == [None]


def test_the_biases_that_differ_beyond_chance_are_told_with_their_intervals(runs: tuple[Run, Run]) -> None:
    sentence = in_words(*runs, cells(), metrics(LOW))
    assert sentence == "Compared with v1, v2 relies less on low frequencies: -0.021 [-0.034, -0.008]"
    high = ("v1, v2", "set", "high_frequency_bias", 0.1, 0.05, 0.15, "ok", "ok")
    shape = ("v1, v2", "cue", "shape_bias", 0.1, -0.01, 0.21, "ok", "ok")
    clean = cells(("set", "clean", -0.05, 0.01), ("set", "lowpass", -0.3, 0.001))
    assert in_words(*runs, clean, metrics(LOW, high, shape)) == (
        "Compared with v1, v2 is less accurate without perturbation: -0.050 [-0.060, -0.040]; "
        "it relies less on low frequencies: -0.021 [-0.034, -0.008]; "
        "it relies more on high frequencies: +0.100 [+0.050, +0.150]"
    )


@pytest.mark.parametrize(
    "row",
    [
        (*LOW[:4], -0.034, 0.008, "ok", "ok"),
        (*LOW[:4], None, None, "ok", "ok"),
        (*LOW[:6], "ok", "doubtful"),
        ("v1, v2", "set", "critical_bandwidth", -1.0, -2.0, -0.5, "ok", "ok"),
    ],
)
def test_what_is_chance_or_unsound_is_not_told(runs: tuple[Run, Run], row: Sequence[object]) -> None:
    tested = cells(("set", "clean", -0.05, 0.2), ("set", "lowpass", -0.3, 0.3))
    sound = row[5] == 0.008 and row[7] == "ok"
    unmoved = ", nor in low-frequency bias (0.042)" if sound else ""
    assert in_words(*runs, tested, metrics(row)) == (
        "No difference was found between v1 and v2 in 2 cells (one smaller than 0.050 to 0.300, by cell, could not "
        f"have been){unmoved}; the interval that reaches farthest is -0.300 [-0.310, -0.290], which is not corrected "
        "for the number of cells"
    )
    assert in_words(*runs, cells(), metrics(row)) is None


def test_of_several_cases_those_that_differ_are_counted(runs: tuple[Run, Run]) -> None:
    rows = [("v1, v2", f"set{k}", "low_frequency_bias", d, d - 0.02, d + 0.02, "ok", "ok") for k, d in
            enumerate((-0.1, -0.2, 0.1, 0.0))]  # fmt: skip
    assert in_words(*runs, cells(), metrics(*rows)) == (
        "Compared with v1, v2 relies less on low frequencies in 2 of 4 cases, at most by -0.200 [-0.220, -0.180] "
        "and relies more on low frequencies in 1 of 4 cases, at most by +0.100 [+0.080, +0.120]"
    )
    assert in_words(*runs, cells(("set", "lowpass", -0.3, 0.001)), metrics()) == (
        "v2 differs from v1 in the accuracy of 1 of 1 cell, at most by -0.300 [-0.310, -0.290]"
    )


def test_a_cut_differs_in_cycles_per_image(runs: tuple[Run, Run]) -> None:
    cut = ("v1, v2", "set", "lowpass_half_cut", 19.04, 17.5, 20.46, "ok", "ok")
    assert in_words(*runs, cells(), metrics(cut)) == (
        "Compared with v1, v2 needs more of the high frequencies to keep half of its accuracy: +19.0 [+17.5, +20.5] "
        "cycles per image"
    )


def filtered(store: Store, names: Sequence[str], lost: int) -> str:
    """A study of networks of which the last loses so many more of 200 images under every low-pass."""
    images, parts = image_set(200, labels=[0] * 200), []
    for name in names:
        for setting in (condition(), *(condition(p, cutoff=c) for p in ("lowpass", "highpass") for c in BIAS_CUTOFFS)):
            wrong = 20 + (lost if setting.probe == "lowpass" and name == names[-1] else 0)
            rank = (np.arange(200) < wrong).astype(int)
            parts.append(part(cell(images, setting, by=model(name, classes=1000)), rank, rank))
    label = store_study(store, "s", images, parts)
    compute_measures(store, label)
    return label


def test_a_checkpoint_that_loses_images_under_low_pass_relies_less_on_low_frequencies(tmp_path: Path) -> None:
    """180 of 200 are right, and 150 of these under each low-pass: a ratio of 150 / 180 instead of 1."""
    with open_store(tmp_path / "results.duckdb") as store:
        run = Run(store, filtered(store, ["v1", "v2"], 30))
        comparison = compare_runs(*two_of(run, run, "checkpoint", "v1", "v2"))
        back = compare_runs(*two_of(run, run, "checkpoint", "v2", "v1"))
    assert comparison.verdict.findings[0].startswith(
        "Compared with v1, v2 relies less on low frequencies: -0.167 [-0.2"
    )
    assert back.verdict.findings[0].startswith("Compared with v2, v1 relies more on low frequencies: +0.167 [+0.1")


def test_models_that_guess_under_a_filter_are_not_told_apart_by_it(tmp_path: Path) -> None:
    """Two models of 7 classes are right in 1 of 7 images under every high-pass; only their clean accuracies differ."""
    images, parts, rng = image_set(700, labels=[k % 7 for k in range(700)]), [], np.random.default_rng(0)
    filters = [condition(probe, cutoff=c) for probe in ("lowpass", "highpass") for c in BIAS_CUTOFFS]
    for name, clean in (("v1", 0.9), ("v2", 0.6)):
        for setting in (condition(), *filters):
            accuracy = {"clean": clean, "lowpass": clean, "highpass": 1 / 7}[setting.probe]
            rank = (rng.permutation(700) >= round(700 * accuracy)).astype(int)
            parts.append(part(cell(images, setting, by=model(name, classes=7)), rank, rank))
    with open_store(tmp_path / "results.duckdb") as store:
        label = store_study(store, "s", images, parts)
        compute_measures(store, label)
        run = Run(store, label)
        comparison = compare_runs(*two_of(run, run, "checkpoint", "v1", "v2"))
    high = comparison.metrics.filter(metric="high_frequency_bias").row(0, named=True)
    assert high["low"] > 0, "the published number differs by the clean accuracy that it is a ratio to"
    assert high["state_a"] == high["state_b"] == "at_chance"
    assert comparison.verdict.findings[0].startswith(
        "Compared with v1, v2 is less accurate without perturbation: -0.300"
    )
    assert "frequencies" not in comparison.verdict.findings[0]


def test_a_model_that_recognizes_less_of_both_cues_is_not_said_to_decide_by_shape(runs: tuple[Run, Run]) -> None:
    shape = ("v1, v2", "cue", "shape_bias", 0.261, 0.2, 0.32, "ok", "ok")
    alike = ("v1, v2", "cue", "cue_accuracy", -0.01, -0.03, 0.01, "ok", "ok")
    damaged = ("v1, v2", "cue", "cue_accuracy", -0.2, -0.24, -0.16, "ok", "ok")
    assert (
        in_words(*runs, cells(), metrics(shape, alike))
        == "Compared with v1, v2 decides more by shape: +0.261 [+0.200, +0.320]"
    )
    assert in_words(*runs, cells(), metrics(shape, damaged)) == (
        "Compared with v1, v2 recognizes less of the two cues: -0.200 [-0.240, -0.160]"
    )
    elsewhere = ("v1, v2", "other", *damaged[2:])
    assert "decides more by shape" in in_words(*runs, cells(), metrics(shape, elsewhere))
