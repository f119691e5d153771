import json
from pathlib import Path

import polars as pl
import pytest

from bandlens.analysis.correlations.table import correlate_study
from bandlens.analysis.metrics.registry import MEASURES
from bandlens.analysis.published.study_figures import BIASES, SHIPPED, published_table, shipped_figures
from bandlens.core.protocol import ACCURACIES, GROUPS

TOP1 = {
    **{name: f"top1_acc/{name}" for name in ACCURACIES},
    "pgd_linf": "top1_acc/PGD-40/low",
}
"""Name of an accuracy -> the published column that holds it; that of ReaL holds the accuracy on the last batch."""
PUBLISHED = Path(__file__).parents[5] / "shared" / "published"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published figures at ../shared/published")


def test_48_figures_are_shipped_with_their_source() -> None:
    figures = shipped_figures()
    assert figures.shape == (48, 12)
    assert figures["model"].n_unique() == 48
    assert figures["category"].n_unique() == 7
    assert figures.null_count().sum_horizontal().item() == 0
    head = SHIPPED.read_text(encoding="utf-8").split("model,")[0]
    assert "Gavrikov & Keuper 2024" in head
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in head


@needs_published
def test_the_published_table_follows_from_the_shipped_figures() -> None:
    table = correlate_study(published_table(), "spearman")
    printed = pl.when(pl.col("p") < 0.05).then("coefficient").otherwise(0.0)
    rows = table.select("bias", "group", "subset", printed.map_elements("{:.2f}".format, pl.String)).rows()
    published = {row[:3]: f"{row[3]:.2f}" for row in pl.read_csv(PUBLISHED / "correlations.csv").rows()}
    assert len(published) == 72
    assert {row[:3]: row[3] for row in rows} == published
    assert {*table.select("subset", "n").rows()} == {("total", 48), ("adversarial_training", 15), ("other", 33)}


@needs_published
def test_the_shipped_figures_are_means_of_the_columns_of_the_whole_file() -> None:
    categories = json.loads((PUBLISHED / "categories.json").read_text())
    category_by_model = {model: category for category, models in categories.items() for model in models}
    groups = {group: [TOP1[name] for name in GROUPS[group]] for group in GROUPS}
    biases = {bias: published.columns for bias in BIASES if (published := MEASURES[bias].display.published)}
    means = {name: pl.mean_horizontal(columns) for name, columns in (groups | biases).items()}
    table = pl.read_csv(PUBLISHED / "benchmark.csv").select("model", **means)
    order = pl.DataFrame({"model": list(category_by_model), "category": list(category_by_model.values())})
    figures = order.join(table, on="model", how="left", maintain_order="left")
    lines = SHIPPED.read_text(encoding="utf-8").splitlines(keepends=True)
    assert figures.write_csv(float_precision=6) == "".join(line for line in lines if not line.startswith("#"))
