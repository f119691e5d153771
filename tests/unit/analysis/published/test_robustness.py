"""The lines of effective robustness are those of other people's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit
from scipy.stats import linregress
from small import Command

from bandlens.analysis.published.robustness import add_effective, fit_baseline, read_accuracies
from bandlens.analysis.published.sources import shipped_values
from bandlens.core.errors import UsageError

ATLAS = Path(__file__).parents[5] / "shared" / "published" / "atlas"
needs_atlas = pytest.mark.skipif(not ATLAS.is_dir(), reason="no figures at ../shared/published/atlas")


@pytest.fixture(scope="module")
def values() -> pl.DataFrame:
    return shipped_values()


def test_a_baseline_is_named_by_its_models(values: pl.DataFrame) -> None:
    for baseline, models in (("standard", 87), ("testbed", 85), ("timm", 1555)):
        [line] = fit_baseline(values, baseline)["imagenet-v2"].lines
        assert (line.n, line.r2 > 0.99) == (models, True)
    with pytest.raises(UsageError, match="unknown baseline 'testbd'; did you mean testbed"):
        fit_baseline(values, "testbd")


@needs_atlas
def test_the_baseline_testbed_is_the_testbed_s_own_definition(values: pl.DataFrame) -> None:
    """Taori et al. 2020, from the testbed's table: log odds, no reference networks, 200 classes, two lines for A."""
    benchmark, over = "imagenet-a", "val-on-imagenet-a-classes"
    table = pl.read_csv(ATLAS / "testbed_robustness_top1s.csv").select("model", over, benchmark).drop_nulls()
    standard = pl.read_csv(ATLAS / "testbed_model_types.csv").filter(type="Standard training")["model"].to_list()
    fitted = table.filter(
        pl.col("model").is_in(standard), ~pl.col("model").str.contains("aws|batch64"), pl.col(benchmark) > 0
    )
    assert len(fitted) == 84
    x, y = table.select(over, benchmark).to_numpy().T
    (pivot,) = table.filter(model="resnet50")[over]
    sides = [
        (table[over] <= pivot, fitted.filter(pl.col(over) < pivot)),
        (table[over] > pivot, fitted.filter(pl.col(over) > pivot)),
    ]
    expected = np.zeros(len(x))
    for side, models_on_side in sides:
        line = linregress(*logit(models_on_side.select(over, benchmark).to_numpy().T / 100))
        expected += side.to_numpy() * 100 * expit(line.slope * logit(x / 100) + line.intercept)
    frame, _ = add_effective(read_accuracies(values, "testbed"), fit_baseline(values, "testbed"))
    shipped = frame.select("name", points=f"effective_{benchmark}").drop_nulls()
    pairs = table.with_columns(robustness=y - expected).join(shipped, left_on="model", right_on="name", validate="1:1")
    assert len(pairs) == len(table)
    assert pairs["points"].to_numpy() == pytest.approx(pairs["robustness"].to_numpy(), abs=0.001)


def test_zero_shot_models_lie_above_the_line_of_timms(values: pl.DataFrame) -> None:
    """docs/findings.md has these numbers."""
    top1 = dict(values.filter(model="ViT-L-14.openai", metric="top1", condition="").select("benchmark", "value").rows())
    by_all = fit_baseline(values, "timm")["imagenet-r"].expected([top1["imagenet"]])[0]
    assert (round(top1["imagenet"]), round(top1["imagenet-r"]), round(by_all)) == (76, 88, 36)


@needs_atlas
def test_shipped_types_of_training_are_those_of_the_testbed() -> None:
    from bandlens.analysis.published.robustness import TYPES

    assert pl.read_csv(TYPES, comment_prefix="#").equals(pl.read_csv(ATLAS / "testbed_model_types.csv"))


def test_effective_robustness_needs_accuracies(values: pl.DataFrame) -> None:
    with pytest.raises(UsageError, match="needs accuracies on imagenet and one of imagenet-v2"):
        add_effective(pl.DataFrame({"imagenet": [70.0]}), fit_baseline(values))


def test_a_line_of_effective_robustness_is_printed(command: Command) -> None:
    answer = command("correlate", "--target", "effective", "--bias", "shape_bias")
    assert "0.9955" in answer.out  # the R2 of the line for V2
