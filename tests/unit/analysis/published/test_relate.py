"""A right join of the sources gives lines, places, and pairs whose signs differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit
from scipy.stats import linregress, norm
from small import Command

from bandlens.analysis.published.names import values_of_model
from bandlens.analysis.published.relate import (
    POOLS,
    accuracies,
    baseline_lines,
    place,
    study_models,
    training_lines,
    training_models,
    with_effective,
)
from bandlens.analysis.published.sources import shipped_values
from bandlens.core.errors import UsageError

ATLAS = Path(__file__).parents[5] / "shared" / "published" / "atlas"
needs_atlas = pytest.mark.skipif(not ATLAS.is_dir(), reason="no figures at ../shared/published/atlas")


@pytest.fixture(scope="module")
def values() -> pl.DataFrame:
    return shipped_values()


def test_fits_of_a_thousand_models(values: pl.DataFrame) -> None:
    lines = {name: expectation.lines[0] for name, expectation in baseline_lines(values, "timm").items()}
    assert {name: round(line.r2, 3) for name, line in lines.items()} == {
        "imagenet-v2": 0.992,
        "imagenet-real": 0.976,
        "imagenet-sketch": 0.816,
        "imagenet-a": 0.803,
        "imagenet-r": 0.710,
    }
    spearman = {name: line.spearman for name, line in lines.items()}
    assert list(spearman.values()) == pytest.approx([0.995, 0.992, 0.946, 0.981, 0.943], abs=0.0006)
    assert {line.n for line in lines.values()} == {1555}


def test_a_baseline_is_named_by_its_models(values: pl.DataFrame) -> None:
    for baseline, models in (("standard", 87), ("testbed", 85)):
        [line] = baseline_lines(values, baseline)["imagenet-v2"].lines
        assert (line.n, line.r2 > 0.99) == (models, True)
    with pytest.raises(UsageError, match="unknown baseline 'testbd'; did you mean testbed"):
        baseline_lines(values, "testbd")


@needs_atlas
@pytest.mark.parametrize(
    ("benchmark", "over", "models"),
    [
        ("imagenet-v2", "val", 85),
        ("imagenet-sketch", "val", 85),
        ("imagenet-a", "val-on-imagenet-a-classes", 84),
        ("imagenet-r", "val-on-imagenet-r-classes", 80),
    ],
)
def test_the_baseline_testbed_is_the_testbed_s_own_definition(
    values: pl.DataFrame, benchmark: str, over: str, models: int
) -> None:
    """Taori et al. 2020, from the testbed's table: log odds, no reference networks, 200 classes, two lines for A."""
    column = {"imagenet-v2": "imagenetv2-matched-frequency-format-val"}.get(benchmark, benchmark)
    table = pl.read_csv(ATLAS / "testbed_robustness_top1s.csv").select("model", over, column).drop_nulls()
    standard = pl.read_csv(ATLAS / "testbed_model_types.csv").filter(type="Standard training")["model"].to_list()
    fitted = table.filter(
        pl.col("model").is_in(standard), ~pl.col("model").str.contains("aws|batch64"), pl.col(column) > 0
    )
    assert len(fitted) == models
    x, y = table.select(over, column).to_numpy().T
    sides = [(table[over] > 0, fitted)]
    if benchmark == "imagenet-a":
        (pivot,) = table.filter(model="resnet50")[over]
        sides = [
            (table[over] <= pivot, fitted.filter(pl.col(over) < pivot)),
            (table[over] > pivot, fitted.filter(pl.col(over) > pivot)),
        ]
    expected = np.zeros(len(x))
    for side, models_on_side in sides:
        of_side = linregress(*logit(models_on_side.select(over, column).to_numpy().T / 100))
        expected += side.to_numpy() * 100 * expit(of_side.slope * logit(x / 100) + of_side.intercept)
    frame, _ = with_effective(accuracies(values, "testbed"), baseline_lines(values, "testbed"))
    shipped = frame.select("name", points=f"effective_{benchmark}").drop_nulls()
    both = table.with_columns(robustness=y - expected).join(shipped, left_on="model", right_on="name", validate="1:1")
    assert len(both) == len(table)
    assert both["points"].to_numpy() == pytest.approx(both["robustness"].to_numpy(), abs=0.001)


ABOVE = {
    "imagenet-v2": (0.996, 4.96, 3.94),
    "imagenet-sketch": (0.911, 38.15, 30.35),
    "imagenet-a": (0.818, 43.69, 19.39),
    "imagenet-r": (0.902, 50.94, 40.13),
}
"""Benchmark -> R2 of the line of zero-shot models, and their mean and least accuracy above that of timm, in points."""


def test_zero_shot_models_follow_a_line_of_their_own_above_timms(values: pl.DataFrame) -> None:
    lines = {name: expectation.lines[0] for name, expectation in training_lines(values)["zero-shot"].items()}
    assert {name: round(line.r2, 3) for name, line in lines.items()} == {
        **{name: r2 for name, (r2, _, _) in ABOVE.items()},
        "objectnet": 0.791,
    }
    assert {line.n for line in lines.values()} == {93}
    frame, _ = with_effective(accuracies(values, "open-clip"), baseline_lines(values, "timm"))
    assert len(frame) == 121
    for name, (_, mean, least) in ABOVE.items():
        above = frame[f"effective_{name}"]
        assert (above > 0).all()
        accurate = above.filter(frame["imagenet"] > 60)
        assert (len(accurate), accurate.mean(), accurate.min()) == pytest.approx((88, mean, least), abs=0.01)


@needs_atlas
def test_the_line_of_zero_shot_models_is_a_regression_over_their_file(values: pl.DataFrame) -> None:
    table = pl.read_csv(ATLAS / "openclip_results.csv").filter(pl.col("ImageNet 1k") > 0.5)
    columns = {"imagenet-v2": "ImageNet v2", "imagenet-sketch": "ImageNet Sketch", "objectnet": "ObjectNet"}
    columns |= {"imagenet-a": "ImageNet-A", "imagenet-r": "ImageNet-R"}
    distinct = table.unique(["ImageNet 1k", *columns.values()])
    assert pl.read_csv(ATLAS / "openclip_results.csv").select("ImageNet 1k", *columns.values()).n_unique() == 117
    for benchmark, expectation in training_lines(values)["zero-shot"].items():
        x, y = distinct.select("ImageNet 1k", columns[benchmark]).to_numpy().T
        fit, [line] = linregress(norm.ppf(x), norm.ppf(y)), expectation.lines
        assert (line.slope, line.intercept, line.r2) == pytest.approx((fit.slope, fit.intercept, fit.rvalue**2))


@needs_atlas
def test_adversarial_training_is_that_of_the_testbed(values: pl.DataFrame) -> None:
    types = pl.read_csv(ATLAS / "testbed_model_types.csv").filter(type="Lp adversarially robust")["model"]
    assert set(training_models(values)["adversarial"]["name"]) == set(types)


def test_what_holds_across_all_models_need_not_hold_within_a_way_of_training(values: pl.DataFrame) -> None:
    lines = {way: of_way["imagenet-a"].lines[0] for way, of_way in training_lines(values).items()}
    assert {way: (line.n, round(line.r2, 2)) for way, line in lines.items()} == {
        "supervised": (1449, 0.78),
        "self-supervised": (67, 0.99),
        "fine-tuned from zero-shot": (37, 0.97),
        "zero-shot": (93, 0.82),
        "adversarial": (16, 0.16),
    }


def test_a_model_is_placed_by_the_line_of_its_own_way_and_by_all(values: pl.DataFrame) -> None:
    rows = {row["benchmark"]: row for row in place(values, values_of_model(values, "ViT-L-14.openai")).to_dicts()}
    assert {row["training"] for row in rows.values()} == {"zero-shot"}
    row, line = rows["imagenet-r"], training_lines(values)["zero-shot"]["imagenet-r"].lines[0]
    expected = 100 * norm.cdf(line.slope * norm.ppf(0.7554) + line.intercept)
    assert (row["expected_within"], row["effective_within"]) == pytest.approx((expected, 87.84 - expected))
    assert (row["effective"] > 50, abs(row["effective_within"]) < 1) == (True, True)
    chosen = place(values, values_of_model(values, "resnet50_untrained")).row(0, named=True)
    assert (chosen["training"], chosen["expected_within"]) == (None, None)


@needs_atlas
def test_shipped_types_of_training_are_those_of_the_testbed() -> None:
    from bandlens.analysis.published.relate import TYPES

    assert pl.read_csv(TYPES, comment_prefix="#").equals(pl.read_csv(ATLAS / "testbed_model_types.csv"))


def test_effective_robustness_needs_accuracies(values: pl.DataFrame) -> None:
    with pytest.raises(UsageError, match="needs accuracies on imagenet and one of imagenet-v2"):
        with_effective(pl.DataFrame({"imagenet": [70.0]}), baseline_lines(values))


def test_shape_training_gains_where_accuracy_does_not_say_so(values: pl.DataFrame) -> None:
    frame, names = with_effective(study_models(values), baseline_lines(values, "standard"))
    assert names == [
        "effective_imagenet-v2",
        "effective_imagenet-sketch",
        "effective_imagenet-a",
        "effective_imagenet-r",
    ]
    trained = frame.filter(model="resnet50_trained_on_SIN").row(0, named=True)
    plain = frame.filter(model="tv_resnet50").row(0, named=True)
    assert trained["effective_imagenet-r"] > 10 > abs(plain["effective_imagenet-r"])
    assert trained["imagenet"] < plain["imagenet"]


def test_commands(command: Command) -> None:
    tables = json.loads(command("published", "show", "fits", "--format", "json").out)
    assert {row["baseline"] for row in tables["baseline"]} == {"testbed", "standard", "timm"}
    assert {row["training"] for row in tables["training"]} == set(POOLS)
    answer = command("published", "relate")
    assert "48 models of 7 families" in answer.out
    assert "low_frequency_bias goes down with imagenet-a between the means of 7 families (-0.39, p 0.391)" in answer.out
    assert len(json.loads(command("published", "relate", "--format", "json").out)) == 6 * 5
    answer = command("correlate", "--target", "effective", "--bias", "shape_bias")
    assert "0.9955" in answer.out  # the R2 of the line for V2
    assert "effective_imagenet-r" in answer.out
    rows = json.loads(command("correlate", "--target", "effective", "--format", "json").out)
    assert len(rows) == 6 * 4 * 3
