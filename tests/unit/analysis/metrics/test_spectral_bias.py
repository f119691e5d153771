from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from bandlens.analysis.metrics.spectral_bias import spectral_bias, spectral_intervals
from bandlens.analysis.published.figures import read_benchmark, shipped_figures
from bandlens.errors import StoreError
from bandlens.protocol import BIAS_CUTOFFS

PUBLISHED = Path(__file__).parents[5] / "shared" / "published"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published figures at ../shared/published")

LOW = {0.01: 0.02, 0.1: 0.2, 0.2: 0.4, 0.3: 0.6, 0.4: 0.8, 0.5: 1.0, 0.9: 1.1}
HIGH = {0.01: 0.9, 0.1: 0.05, 0.2: 0.1, 0.3: 0.15, 0.4: 0.2, 0.5: 0.25, 0.9: 0.5}


def curve(low: dict[float, float | None] = LOW, high: dict[float, float | None] = HIGH, **keys: str) -> pl.DataFrame:
    key = {"study": "s", "checkpoint": "a", "category": "c", "image_set": "i", "measure": "accuracy", "n": 100} | keys
    rows = [
        {"probe": probe, "cutoff": cutoff, "frequency": None, "noise_sd": None, "top1": 0.5, "ratio": ratio}
        for probe, ratios in (("lowpass", low), ("highpass", high))
        for cutoff, ratio in ratios.items()
    ]
    rows.append({"probe": "clean", "cutoff": None, "frequency": None, "noise_sd": None, "top1": 0.8, "ratio": 1.0})
    rows.append({"probe": "critical_band", "cutoff": None, "frequency": 3, "noise_sd": 0.1, "top1": 0.8, "ratio": 1.0})
    return pl.DataFrame([row | key for row in rows], infer_schema_length=None)


def answers(frame: pl.DataFrame) -> dict[str, tuple[float | None, str | None]]:
    return {row["metric"]: (row["value"], row["note"]) for row in spectral_bias(frame).iter_rows(named=True)}


def test_means_over_the_five_cutoffs_and_their_share() -> None:
    got = answers(curve().sample(fraction=1, shuffle=True, seed=3))
    assert got["low_frequency_bias"] == (pytest.approx(0.6), None)
    assert got["high_frequency_bias"] == (pytest.approx(0.15), None)
    assert got["spectral_bias"] == (pytest.approx(0.15 / 0.75), None)


def test_cutoffs_that_went_through_single_precision_are_recognized() -> None:
    frame = curve().with_columns(pl.col("cutoff").cast(pl.Float32).cast(pl.Float64))
    assert answers(frame)["low_frequency_bias"][0] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("frame", "note"),
    [
        (curve(high={c: r for c, r in HIGH.items() if c not in (0.2, 0.4)}), "cutoff 0.2 is missing, 0.4 is missing"),
        (curve(high={}), "0.1 is missing, 0.2 is missing, 0.3 is missing, 0.4 is missing, 0.5 is missing"),
        (curve(high=HIGH | {0.3: None}), "cutoff 0.3 has no ratio to clean accuracy"),
        (curve(high=HIGH | {0.3: float("nan")}), "cutoff 0.3 has no ratio to clean accuracy"),
        (pl.concat([curve(), curve().filter(probe="highpass", cutoff=0.1)]), "cutoff 0.1 is there more than once"),
    ],
)
def test_a_mean_over_fewer_is_refused_with_its_reason(frame: pl.DataFrame, note: str) -> None:
    got = answers(frame)
    assert got["low_frequency_bias"] == (pytest.approx(0.6), None)
    assert got["high_frequency_bias"][0] is None
    assert note in (got["high_frequency_bias"][1] or "")
    states = dict(spectral_bias(frame).select("metric", "state").rows())
    state = "undetermined" if "no ratio" in note else "missing"
    assert states == {"low_frequency_bias": "ok", "high_frequency_bias": state, "spectral_bias": state}
    assert (got["high_frequency_bias"][1] or "").startswith("highpass cutoff")
    assert got["spectral_bias"] == (None, got["high_frequency_bias"][1])


def test_the_share_of_nothing_is_not_a_number() -> None:
    nothing = dict.fromkeys(BIAS_CUTOFFS, 0.0)
    got = answers(curve(low=nothing, high=nothing))
    assert got["low_frequency_bias"] == (0.0, None)
    assert got["spectral_bias"] == (None, "nothing is recognized in either band")


def test_studies_checkpoints_image_sets_and_measures_do_not_mix() -> None:
    frames = [curve(), curve(checkpoint="b", high={}), curve(study="t"), curve(measure="agreement", low=HIGH, high=LOW)]
    got = spectral_bias(pl.concat(frames, how="vertical_relaxed"))
    assert len(got) == 12
    assert got.filter(metric="spectral_bias", checkpoint="a", measure="agreement")["value"].item() == pytest.approx(0.8)
    assert got.filter(metric="spectral_bias", checkpoint="a", study="t")["value"].item() == pytest.approx(0.2)
    assert got.filter(checkpoint="b")["value"].null_count() == 2


def test_a_missing_column_is_named() -> None:
    with pytest.raises(StoreError, match="lacks cutoff, ratio"):
        spectral_bias(curve().drop("cutoff", "ratio"))


def test_no_rows_give_no_rows() -> None:
    assert spectral_bias(curve().clear()).is_empty()


@needs_published
def test_published_ratios_give_the_published_biases() -> None:
    wide = read_benchmark(PUBLISHED / "benchmark.csv").filter(pl.col("metric").str.starts_with("metric/bandpass/"))
    parts = pl.col("metric").str.split("/")
    frame = wide.select(
        study=pl.lit("published"),
        checkpoint="model",
        image_set=pl.lit("imagenet"),
        measure=pl.lit("accuracy"),
        probe=parts.list.get(2).replace_strict({"LFC": "lowpass", "HFC": "highpass"}),
        cutoff=parts.list.get(3).cast(pl.Float64),
        ratio="value",
    )
    ours = spectral_bias(frame).pivot(on="metric", index="checkpoint", values="value")
    both = shipped_figures().join(ours, left_on="model", right_on="checkpoint")
    assert len(both) == 48
    for bias in ("low_frequency_bias", "high_frequency_bias"):
        assert (both[bias] - both[f"{bias}_right"]).abs().max() <= 5e-7


def outcomes(rng: np.random.Generator, images: int, ratios: Sequence[float]) -> NDArray[np.bool_]:
    """(11, images): clean is right on 80 %, and of those each filter leaves its ratio."""
    clean = rng.random(images) < 0.8
    return np.array([clean, *(clean & (rng.random(images) < ratio) for ratio in ratios)])


RATIOS = (0.2, 0.4, 0.5, 0.6, 0.8, 0.1, 0.2, 0.2, 0.3, 0.2)


def test_intervals_equal_a_bootstrap_written_out() -> None:
    correct = outcomes(np.random.default_rng(0), 120, RATIOS)
    clusters = np.arange(120) // 3
    found = spectral_intervals(correct, clusters, resamples=4000)
    rng, values = np.random.default_rng(9), []
    for _ in range(4000):
        drawn = np.concatenate([np.flatnonzero(clusters == c) for c in rng.integers(0, 40, 40)])
        ratios = correct[1:, drawn].sum(axis=1) / correct[0, drawn].sum()
        low, high = ratios[:5].mean(), ratios[5:].mean()
        values.append((low, high, high / (low + high)))
    ends = np.quantile(values, [0.025, 0.975], axis=0)
    for position, name in enumerate(("low_frequency_bias", "high_frequency_bias", "spectral_bias")):
        width = ends[1, position] - ends[0, position]
        assert found[name] == pytest.approx(ends[:, position], abs=0.08 * width)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = {"low_frequency_bias": 0.5, "high_frequency_bias": 0.2, "spectral_bias": 0.2 / 0.7}
    held = dict.fromkeys(truth, 0)
    for run in range(100):
        found = spectral_intervals(outcomes(np.random.default_rng(run), 300, RATIOS), np.arange(300), resamples=300)
        for name, value in truth.items():
            held[name] += found[name][0] <= value <= found[name][1]
    assert all(88 <= count <= 99 for count in held.values()), held


def test_few_independent_images_have_no_interval() -> None:
    correct = outcomes(np.random.default_rng(0), 64, RATIOS)
    assert spectral_intervals(correct, np.arange(64) // 8) == {}
    assert set(spectral_intervals(correct, np.arange(64))) == {
        "low_frequency_bias",
        "high_frequency_bias",
        "spectral_bias",
    }


def test_what_is_never_right_under_a_filter_has_an_interval_of_a_width() -> None:
    """Resamples of nothing are nothing, and would give 0 to 0."""
    correct = outcomes(np.random.default_rng(0), 300, (0.5,) * 5 + (0,) * 5)
    found = spectral_intervals(correct, np.arange(300))
    assert found["high_frequency_bias"] == pytest.approx((0, (3.84 / 303.84) / correct[0].mean()), rel=0.05)
    assert found["spectral_bias"][0] == 0 < found["spectral_bias"][1] < 0.03
    nothing = spectral_intervals(np.concatenate([correct[:1], np.zeros((10, 300), bool)]), np.arange(300))
    assert nothing["low_frequency_bias"] == nothing["high_frequency_bias"] == found["high_frequency_bias"]
    assert "spectral_bias" not in nothing, "it has no value"
    assert spectral_intervals(np.zeros((11, 300), bool), np.arange(300)) == {}


def test_what_is_always_right_has_an_interval_of_a_width() -> None:
    found = spectral_intervals(np.ones((11, 60), bool), np.arange(60))
    assert found["low_frequency_bias"][0] < 0.97 < 1 < 1.03 < found["low_frequency_bias"][1]


@pytest.mark.parametrize("ratio", [0.0005, 0.002, 0.01, 0.995])
def test_intervals_hold_ratios_near_0_and_1(ratio: float) -> None:
    held = {"high_frequency_bias": 0, "spectral_bias": 0}
    truth = {"high_frequency_bias": ratio, "spectral_bias": ratio / (0.5 + ratio)}
    for run in range(150):
        correct = outcomes(np.random.default_rng(run), 300, (0.5,) * 5 + (ratio,) * 5)
        found = spectral_intervals(correct, np.arange(300), resamples=300)
        for name in held:
            held[name] += found[name][0] <= truth[name] <= found[name][1]
    assert min(held.values()) >= 0.91 * 150, held
