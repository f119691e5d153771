from __future__ import annotations

import re
from pathlib import Path

import altair as alt
import polars as pl
import pytest
import vl_convert
from PIL import Image

from bandlens.analysis.charts.grammar import (
    begin_libraries,
    layered,
    plot,
    scales,
    two_a_row,
    vega_lite_version,
)


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("category", {"training_recipes": "training recipes", "a_b_c": "a b c"}),
        ("model", {"resnet50_a1": "resnet50_a1", "b_c": "b_c"}),
    ],
)
def test_a_legend_says_categories_in_words_and_models_by_their_names(field: str, names: dict[str, str]) -> None:
    color, shape = scales(field, names)
    chart = alt.Chart(pl.DataFrame({field: list(names)})).mark_point().encode(color=color, shape=shape)
    svg = vl_convert.vegalite_to_svg(chart.to_dict())
    assert re.findall(r'role-legend-label"[^>]*><text[^>]*>([^<]*)', svg) == list(names.values())


def test_a_saved_picture_has_300_dots_per_inch_unless_one_asks_for_others(tmp_path: Path) -> None:
    points = plot(pl.DataFrame({"x": [1, 2]})).mark_point().encode(x="x:Q")
    for chart in (points, layered(points, title="layers"), two_a_row([points, points])):
        widths = {}
        for name, options in {"default": {}, "screen": {"ppi": 72}}.items():
            chart.save(tmp_path / f"{name}.png", **options)
            with Image.open(tmp_path / f"{name}.png") as png:
                widths[round(png.info["dpi"][0])] = png.width
        assert widths[300] == pytest.approx(widths[72] * 300 / 72, abs=5)


def test_a_notebook_shows_a_picture_unless_it_enables_a_renderer() -> None:
    points = plot(pl.DataFrame({"x": [1, 2]})).mark_point().encode(x="x:Q")
    for chart in (points, layered(points, title="layers"), two_a_row([points, points])):
        assert chart._repr_mimebundle_()["image/svg+xml"].startswith("<svg")
        with alt.renderers.enable("html"):
            assert [*chart._repr_mimebundle_()] == ["text/html"]


def test_a_script_of_the_charts_version_is_made_once() -> None:
    script = begin_libraries().result(60)
    assert "window.vegaEmbed" in script
    assert f'="{vega_lite_version()}.' in script
    assert begin_libraries() is begin_libraries()
