from __future__ import annotations

import re

import altair as alt
import polars as pl
import pytest
import vl_convert

from bandlens.analysis.charts.grammar import begin_libraries, scales, vega_lite_version


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


def test_a_script_of_the_charts_version_is_made_once() -> None:
    script = begin_libraries().result(60)
    assert "window.vegaEmbed" in script
    assert f'="{vega_lite_version()}.' in script
    assert begin_libraries() is begin_libraries()
