"""The style that all charts share: type, axes, scales, and picking a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import polars as pl
import polars.selectors as cs

from .palette import colors

INK, FAINT = "#1a1a1a", "#8c8c8c"
PICKED = "picked"
"""Name of the parameter that holds the model or category picked, or nothing."""

CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "Helvetica Neue, Arial, Liberation Sans, sans-serif",
    "view": {"stroke": "#d9d9d9", "continuousWidth": 260, "continuousHeight": 190},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "gridColor": "#ececec",
        "domainColor": FAINT,
        "tickColor": FAINT,
        "labelLimit": 220,
        "labelSeparation": 5,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "symbolOpacity": 1,
    },
    "title": {"color": INK, "anchor": "start", "fontSize": 12, "subtitleColor": "#4d4d4d", "subtitleFontSize": 11},
}


CENTER = "centre of the noise (cycles per image)"


def centers_axis() -> alt.Axis:
    """The axis of bands of noise, a tick for each centre: these are no round numbers at image sizes other than 224.

    Its title is longer than some maps are wide, and reaches below the names of the rows.
    """
    return alt.Axis(labelAngle=0, format=".4~g", titleAnchor="end")


MOST_ASLANT = 12
"""Names of columns that have room aslant below a map of 3.5 in."""


def below(columns: int) -> alt.Axis:
    """The axis of names below so many columns of a map: aslant, or upright where they are many."""
    return alt.Axis(labelAngle=-40 if columns <= MOST_ASLANT else -90)


def tile_font(largest: int, columns: int, letters: int) -> alt.ExprRef:
    """Size of the letters on the tiles of a map with so many columns: what a narrow chart has room for."""
    return alt.ExprRef(f"min({largest}, width / {0.62 * columns * letters:.3g})")


def vega_lite_version() -> str:
    """The version of Vega-Lite that the charts are written for: 6.4 of v6.4.1."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def words(name: str) -> str:
    return name.replace("_", " ")


def two_a_row(panels: Iterable[Any]) -> Any:
    """The panels as one chart."""
    return alt.concat(*panels, columns=2)


def inline(frame: pl.DataFrame) -> alt.InlineData:
    """The rows, inside the chart: six digits, and nothing that JSON cannot hold."""
    finite = frame.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float().cast(pl.Float64).round_sig_figs(6)).name.keep()
    )
    # Each step of a chart copies lists of rows, and no tuples.
    return alt.InlineData(values=tuple(finite.to_dicts()))


def scales(field: str, names: Iterable[str]) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape by a field of these names, with one legend; without, if there is but one name.

    The legend writes categories in words; models keep their names.
    """
    looks = colors(names)
    hue = alt.Scale(domain=list(looks), range=[color for color, _ in looks.values()])
    form = alt.Scale(domain=list(looks), range=[shape for _, shape in looks.values()])
    label = "replace(datum.label, /_/g, ' ')" if field == "category" else alt.Undefined
    legend = alt.Legend(labelExpr=label) if len(looks) > 1 else None
    return (
        alt.Color(f"{field}:N", scale=hue, title=None, legend=legend),
        alt.Shape(f"{field}:N", scale=form, title=None, legend=legend),
    )


def picked() -> alt.Parameter:
    """A chart with this parameter fades what `faded` is told to; the report sets it from buttons and lists."""
    return alt.param(name=PICKED, value="")


class Layers(alt.LayerChart):
    """A chart of layers that are as they should be.

    `alt.LayerChart` makes three deep copies of all layers as it is made, and again as it is written, to lift what they
    have in common: half of the time of a report.
    """

    def __init__(self, data: Any = alt.Undefined, layer: Sequence[Any] = (), **properties: Any) -> None:
        alt.TopLevelLayerSpec.__init__(self, data=data, layer=list(layer), **properties)


def layered(*layers: Any, picks: bool = False, **properties: Any) -> Any:
    """One chart of the layers, with its title and size; `picks` gives it the parameter that fades what is not picked.

    Rows that all layers draw are there once.
    """
    data, parameters = layers[0].data, {"params": [picked().param]} if picks else {}
    if all(layer.data is data for layer in layers):
        layers = tuple(layer.copy(deep=False) for layer in layers)
        for layer in layers:
            layer.data = alt.Undefined
    else:
        data = alt.Undefined
    return Layers(data, layers, **parameters, **properties)


def faded(full: float = 1) -> Any:
    """Opacity `full` while nothing is picked; then 1 for the model or category that is, and 0.08 for the others.

    Rows have `model` and `category`.
    """
    nothing, matches = f"{PICKED} == ''", f"datum.model == {PICKED} || datum.category == {PICKED}"
    return alt.OpacityValue(0.08, condition=[where(nothing, full), where(matches, 1)])


def where(test: str, value: float | str) -> dict[str, Any]:
    """The condition of a channel that takes a value where an expression holds.

    Channels are written as Altair's own classes: it takes 5 ms to find the class of each text, `alt.value` and
    `alt.condition`, which would be a quarter of a report's time.
    """
    return {"test": test, "value": value}


ENLARGED = "More than a tenth of the images were enlarged: they have nothing of their own here."
"""The tooltip of shades over frequencies that enlarged originals do not have."""


def shade_enlarged(first: Any, last: Any, across: alt.X) -> Any:
    """A shade from the highest frequency of enlarged originals to the last one, in cycles per image."""
    rows = pl.DataFrame({"cycles": [min(first, last)], "last": [last]})
    shade = alt.Chart(inline(rows)).mark_rect(color=FAINT, opacity=0.25)
    return shade.encode(x=across, x2="last:Q", tooltip=alt.TooltipValue(ENLARGED))


def shade_tiles(tiles: Any, own_cycles: Any) -> list[Any]:
    """A layer that shades the tiles above `own_cycles`, the highest frequency of enlarged originals; none without it.

    `tiles` is a chart whose rows have `cycles`.
    """
    if own_cycles is None:
        return []
    shade = tiles.transform_filter(f"datum.cycles > {own_cycles}").mark_rect(color=FAINT, opacity=0.4)
    return [shade.encode(tooltip=alt.TooltipValue(ENLARGED))]
