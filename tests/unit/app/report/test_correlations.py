"""The atlas in a report: one's own models as points among published ones, by measured or published accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study
from reported import GRID

from bandlens.analysis.correlations.table_inputs import StudyTable
from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.published.study_figures import published_table
from bandlens.app.report.correlations import atlas_section, correlations_section
from bandlens.app.report.data import read_data
from bandlens.app.report.page import Figure

FILTERS = [setting for setting in GRID if setting.probe != "critical_band"]


def figures(database: Path) -> dict[str, Figure]:
    return {figure.name: figure for figure in atlas_section(read_data(database)).figures}


def layers(figure: Figure, kind: str) -> list[list[dict[str, Any]]]:
    """The rows of all layers of a mark, panel by panel."""
    layer_rows = []
    for panel in figure.panels.values():
        spec = panel.to_dict()
        for layer in spec["layer"]:
            mark = layer["mark"]["type"] if isinstance(layer["mark"], dict) else layer["mark"]
            if mark == kind and layer["mark"].get("color"):
                data = layer.get("data") or spec["data"]
                layer_rows.append(data.get("values") or spec["datasets"][data["name"]])
    return layer_rows


def test_models_are_points_where_their_accuracy_is_published_and_lines_where_not(tmp_path: Path) -> None:
    """resnet50.tv_in1k has 76.156 % in timm's results-imagenet.csv."""
    images, path = image_set(120, name="photographs", labels=[0] * 120), tmp_path / "results.duckdb"
    published_model = replace(model("mine", classes=1000), weights_sha256="0676ba61" * 8)
    parts = [
        part(cell(images, setting, by=by), [int(k % 3 == 0) for k in range(120)], [int(k % 3 == 0) for k in range(120)])
        for by in (published_model, model("other", classes=1000))
        for setting in GRID
    ]
    database_of(tmp_path, images, parts, measured=True)
    figure = figures(path)["atlas-biases"]
    points, lines = layers(figure, "point"), layers(figure, "rule")
    assert len(figure.panels) == len(points) == len(lines) == 2  # there are no cue conflicts, so there is no shape bias
    assert {(row["model"], row["imagenet"], row["imagenet_is"]) for rows in points for row in rows} == {
        ("mine", 76.156, "published")
    }
    assert {row["model"] for rows in lines for row in rows} == {"other"}
    names = [row["model"] for rows in layers(figure, "text") for row in rows]
    assert sorted(names) == ["mine", "mine", "other", "other"], "each panel names each of one's own models once"
    table = figure.table.select("metric", "state").unique()
    flat = table.filter(pl.col("metric").str.starts_with("critical_"))
    assert flat["state"].to_list() == ["degenerate"] * 3, "all accuracies are equal; no mark, but rows of the table"
    assert "degenerate fits" in figure.caption[-1]


@pytest.mark.parametrize(("classes", "labelled"), [(1000, False), (10, True)], ids=["agreement", "other classes"])
def test_what_cannot_be_compared_is_not_drawn_among_published_models(
    tmp_path: Path, classes: int, labelled: bool
) -> None:
    """Published biases are of accuracy among 1,000 classes; without labels they are of agreement."""
    labels = [k % 10 for k in range(120)] if labelled else None
    images, path = image_set(120, name="photographs", labels=labels), tmp_path / "results.duckdb"
    rank, net = [int(k % 3 == 0) for k in range(120)], model("own", classes=classes)
    predicted = [(k + rank[k]) % 10 for k in range(120)]
    with open_store(path) as store:
        parts = [part(cell(images, setting, by=net), predicted, rank if labelled else None) for setting in FILTERS]
        store_study(store, "s", images, parts)
        compute_measures(store, "s")
        assert store.frame("FROM metric WHERE metric LIKE '%low_frequency_bias' AND state = 'ok'").height == 1
    assert figures(path) == {}


def test_measured_accuracy_goes_before_the_published_one(tmp_path: Path) -> None:
    images = image_set(50_000, name="imagenet", labels=[0] * 50_000, benchmark="imagenet")
    rank = [int(k % 4 == 0) for k in range(50_000)]
    photographs = image_set(40, name="photographs", labels=[0] * 40)
    net = model("resnet50.a1_in1k", classes=1000)
    filters = [part(cell(photographs, setting, by=net), [0] * 40, [0] * 40) for setting in FILTERS]
    path = tmp_path / "results.duckdb"
    database_of(
        tmp_path, [images, photographs], [part(cell(images, condition(), by=net), rank, rank), *filters], measured=True
    )
    [*_, rows] = layers(figures(path)["atlas-biases"], "point")
    assert [(row["imagenet"], row["imagenet_is"]) for row in rows] == [(pytest.approx(75), "measured")]


def test_a_ratio_has_no_star_against_its_denominator_which_the_page_says(stored_study: Path) -> None:
    """High-frequency bias is over clean accuracy, of which ID is a mean: p after Holm is 4e-5 over the 48 models."""
    section = correlations_section(replace(read_data(stored_study), correlated=published_table()))
    [maps] = section.figures
    row = maps.table.filter(bias="high_frequency_bias", group="ID", subset="total").row(0, named=True)
    assert row["p_holm"] < 0.05
    tiles = maps.panels["All"].to_dict()["datasets"].values()
    texts = {(tile["bias"], tile["group"]): tile["text"] for rows in tiles for tile in rows if "text" in tile}
    assert not texts["high-frequency bias", "ID"].endswith("*")
    assert texts["high-frequency bias", "Robustness"].endswith("*")
    assert "No star, since the bias is a ratio to clean accuracy" in maps.caption[-1]
    assert "high-frequency bias with ID" in maps.caption[-1]
    assert "Of 72 correlations, 40 have p < 0.05, and 19 a star." in section.text[0], (
        "of 22 after Holm, 3 are of ratios"
    )


def test_four_models_have_no_star_and_headings_count_models_with_values(tmp_path: Path) -> None:
    images, path = image_set(12, labels=[0] * 12), tmp_path / "results.duckdb"
    database_of(tmp_path, images, [part(cell(images, condition()), [0] * 12, [0] * 12)])
    values = [1.0, 2, 3, 4, None, None]
    frame = pl.DataFrame({"category": ["own"] * 6, "bias": values, "ID": [9.0, 7, 5, 3, 1, 0]})
    section = correlations_section(replace(read_data(path), correlated=StudyTable(frame, ["bias"], ["ID"], None)))
    [figure] = section.figures
    assert section.text[0].startswith("Your 4 models: ")
    assert "0 have p < 0.05, and 0 a star" in section.text[0]
    assert "Over 4 models, p counts all orders (least possible 0.083), so none has a star" in figure.caption[1]
    [panel] = figure.panels.values()
    chart = panel.to_dict()
    assert chart["title"] == "All (4 models)"
    [tile] = [tile for rows in chart["datasets"].values() for tile in rows if "text" in tile]
    assert (tile["text"], tile["pale"], tile["p"]) == ("−1.00", True, pytest.approx(2 / 24))
