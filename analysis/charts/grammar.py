"""Building blocks of all charts: style, colors, layers, tooltips, heat maps, selection, and page scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import cycle
from typing import Any

import altair as alt
import polars as pl
import polars.selectors as cs
from altair.utils import update_nested

from ...core.errors import UsageError
from ...core.protocol import CATEGORIES

INK, FAINT = "#1a1a1a", "#8c8c8c"
DOTS_PER_INCH = 300
"""Default resolution of PNG files, suitable for print."""
PICK = "picked"
"""Name of the Vega parameter with the selected model or category. It is empty if nothing is selected."""
TEXT = {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal"}
CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "Helvetica Neue, Arial, Liberation Sans, sans-serif",
    "view": {"stroke": "#d9d9d9", "continuousWidth": 260, "continuousHeight": 190},
    "axis": {
        **TEXT,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "gridColor": "#ececec",
        "domainColor": FAINT,
        "tickColor": FAINT,
        "labelLimit": 360,
        "labelSeparation": 5,
    },
    "legend": TEXT | {"labelLimit": 260, "symbolOpacity": 1},
    "title": {"color": INK, "anchor": "start", "fontSize": 12, "subtitleColor": "#4d4d4d", "subtitleFontSize": 11},
}
"""Vega-Lite configuration of all charts."""
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Colors that readers with color vision deficiencies can distinguish (Okabe & Ito 2008)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
PEOPLE = "humans"
"""Name of the human observers, who are drawn in black among models."""
COLORED_MODELS = 7
"""Largest number of models that get a color and a shape each.

If there are more, each category gets a color and a shape.
"""
SLANTED_COLUMNS = 12
"""Largest number of column names that fit below a heat map of 3.5 in if they are slanted."""
CENTER = "centre of the noise (cycles per image)"
"""Title of the axis of noise bands."""
INTERVAL = {"low": "95 % from", "high": "to"}
"""Maps the column of a confidence limit to its title in tooltips."""
IMAGES, CYCLES = ("n", "images", "d"), ("cycles", "cycles per image", ".4~g")
"""Tooltip lines for the number of images and for the frequency."""
ENLARGED = "Grey: more than a tenth of the images were enlarged, and have nothing of their own here."
"""Tooltip of the shading over frequencies above the native Nyquist limit of enlarged images."""


Domain = tuple[float, float]
"""Limits of an axis or of a color scale."""


def words(name: str) -> str:
    """Replace underscores by spaces."""
    return name.replace("_", " ")


# Colors and shapes


def colors(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Assign a color and a shape to each name.

    The study's categories have the same ones in all charts. Names beyond the number of colors reuse them in order.
    """
    distinct = list(dict.fromkeys(names))
    study = {name: place for place, name in enumerate(CATEGORIES) if name in distinct}
    free = [place for place in range(len(OKABE_ITO)) if place not in study.values()] or range(len(OKABE_ITO))
    places = dict(zip((name for name in distinct if name not in study), cycle(free), strict=False)) | study
    looks = {name: (OKABE_ITO[places[name]], SHAPES[places[name]]) for name in distinct}
    return looks | ({PEOPLE: (INK, "circle")} if PEOPLE in looks else {})


def series_of(frame: pl.DataFrame) -> str:
    """Return the field that determines the color of lines: `model` for a few models, otherwise `category`."""
    return "model" if frame["checkpoint"].n_unique() <= COLORED_MODELS else "category"


def scales(field: str, names: Iterable[str]) -> tuple[alt.Color, alt.Shape]:
    """Return color and shape encodings of a field, with a shared legend if there is more than one name.

    Args:
        field: "model" or "category". The legend writes categories without underscores.
        names: Values of the field.
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


# Rows, layers, tooltips and selection


def plot(rows: pl.DataFrame, **properties: Any) -> Any:
    """Make a chart of rows, with numbers rounded to six significant digits and non-finite numbers replaced by null."""
    finite = rows.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float().cast(pl.Float64).round_sig_figs(6)).name.keep()
    )
    # Altair copies lists at each method call of a chart. It does not copy tuples.
    return Plot(alt.InlineData(values=tuple(finite.to_dicts())), **properties)


class _Printed:
    """Mixin for charts in the common style.

    `save` writes PNG files at 300 dots per inch unless `ppi` is given. In a notebook, the chart is displayed as an SVG
    image unless the user enables an Altair renderer, because Altair's default renderer needs internet access.
    """

    def to_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        spec: dict[str, Any] = super().to_dict(*arguments, **options)  # type: ignore[misc]
        if "$schema" in spec:  # only the outermost chart has a configuration
            own: Any = getattr(self, "config", alt.Undefined)
            spec["config"] = CONFIG if own is alt.Undefined else update_nested(CONFIG, own.to_dict(), copy=True)
        return spec

    def save(self, *arguments: Any, **options: Any) -> None:
        super().save(*arguments, **{"ppi": DOTS_PER_INCH} | options)  # type: ignore[misc]

    def _repr_mimebundle_(self, *arguments: Any, **options: Any) -> Any:
        if alt.renderers.active != "default":
            return super()._repr_mimebundle_(*arguments, **options)  # type: ignore[misc]
        return {"image/svg+xml": svg_of(self.to_dict())}


class Plot(_Printed, alt.Chart):
    """A chart with one mark."""


class Panels(_Printed, alt.ConcatChart):
    """Several charts next to each other."""


class Layers(_Printed, alt.LayerChart):
    """A chart of several layers.

    The constructor of `alt.LayerChart` deep-copies the layers six times, which took half the time of a report. This
    class bypasses it.
    """

    def __init__(self, data: Any = alt.Undefined, layer: Sequence[Any] = (), **properties: Any) -> None:
        alt.TopLevelLayerSpec.__init__(self, data=data, layer=list(layer), **properties)


def layered(*layers: Any, picks: bool = False, **properties: Any) -> Any:
    """Combine layers into one chart.

    Layers without rows are dropped. If all layers have the same rows, the rows are stored once.

    Args:
        *layers: Charts to combine.
        picks: Whether to add the selection parameter, which dims everything that is not selected.
        **properties: Title, width and height.
    """
    layers = tuple(layer for layer in layers if layer.data.values) or layers[:1]
    data, parameters = layers[0].data, {"params": [picked().param]} if picks else {}
    if all(layer.data is data for layer in layers):
        layers = tuple(layer.copy(deep=False) for layer in layers)
        for layer in layers:
            layer.data = alt.Undefined
    else:
        data = alt.Undefined
    return Layers(data, layers, **parameters, **properties)


def count_rows(chart: Any) -> int:
    """Return the largest number of rows of any layer. Reports use it to skip charts with one point or none."""
    parts = (chart, *getattr(chart, "layer", ()))
    return max(len(part.data.values) for part in parts if part.data is not alt.Undefined)


def two_a_row(panels: Iterable[Any]) -> Any:
    """Arrange panels in two columns."""
    return Panels(concat=list(panels), columns=2)


def tips(*lines: str | tuple[str, str, str]) -> list[alt.Tooltip]:
    """Make a tooltip.

    Args:
        *lines: Names of text columns, and (column, title, format) for numbers. `low` and `high` are the limits of the
            95% confidence interval of the preceding number, and use its format.
    """
    tooltips, digits = [], ""
    for line in lines:
        field, title, digits = (line, INTERVAL.get(line, line), digits) if isinstance(line, str) else line
        if isinstance(line, str) and line not in INTERVAL:
            tooltips.append(alt.Tooltip(f"{field}:N", title=title))
        else:
            tooltips.append(alt.Tooltip(f"{field}:Q", title=title, format=digits))
    return tooltips


def where(test: str, value: float | str) -> dict[str, Any]:
    """Return an encoding condition that sets a value where a Vega expression is true.

    `alt.condition` does the same, but Altair takes 5 ms per call to find its class. That would be a quarter of the time
    of a report.
    """
    return {"test": test, "value": value}


def picked() -> alt.Parameter:
    """Return the selection parameter.

    The report sets it from buttons and lists, and encodings with `faded` react to it.
    """
    return alt.param(name=PICK, value="")


def faded(full: float = 1) -> Any:
    """Return an opacity that depends on the selection.

    It is `full` if nothing is selected. Otherwise it is 1 for the selected model or category and 0.08 for all others.
    Rows need the columns `model` and `category`.
    """
    no_pick, matches = f"{PICK} == ''", f"datum.model == {PICK} || datum.category == {PICK}"
    return alt.OpacityValue(0.08, condition=[where(no_pick, full), where(matches, 1)])


# Heat maps and axes


Hue = tuple[alt.Color, str]
"""A color encoding, and a Vega expression that is true for the rows whose text is white."""
BELOW = alt.Legend(orient="bottom", gradientLength=alt.ExprRef("min(200, width)"))
"""Legend of a heat map without text in its tiles."""


def dark_to_light(
    value: str, domain: Sequence[float], middle: float, title: Any = alt.Undefined, legend: Any = None, **scale: Any
) -> Hue:
    """Return a sequential color encoding from dark to light. Text is black for values above `middle`."""
    hues = alt.Scale(scheme="viridis", domain=list(domain), **scale)
    return alt.Color(f"{value}:Q", title=title, legend=legend, scale=hues), f"!(datum.{value} > {middle:g})"


def both_ways(value: str, reach: float, title: Any = alt.Undefined, legend: Any = None) -> Hue:
    """Return a diverging color encoding from orange at `-reach` over white at 0 to purple at `reach`."""
    hues = alt.Scale(scheme="purpleorange", domain=[-reach, reach], reverse=True)
    return alt.Color(f"{value}:Q", title=title, legend=legend, scale=hues), f"abs(datum.{value}) > {0.72 * reach:.4g}"


def two_lines(separator: str) -> str:
    """Return a Vega expression that breaks labels before the separator, because narrow charts truncate long labels."""
    return f"split(replace(datum.label, ' {separator}', '\\n{separator}'), '\\n')"


def signed(number: float | None, digits: str = "z.2f", star: bool | None = False) -> str:
    """Format a number for a tile, with a true minus sign and optionally a star.

    Zero has no sign, and None becomes a dash.
    """
    return ("–" if number is None else f"{number:{digits}}".replace("-", "−")) + "*" * bool(star)


def tile_map(
    rows: pl.DataFrame,
    title: Any,
    size: tuple[int, int],
    axes: tuple[alt.X, alt.Y],
    hue: Hue,
    tooltip: Sequence[alt.Tooltip],
    own_cycles: Any = None,
    gap: int = 1,
) -> Any:
    """Make a heat map with one tile per row.

    Args:
        rows: Values of the tiles. The optional column `text` is written on a tile, `bold` sets the text in bold, and
            `pale` makes the tile pale.
        title: Title of the chart.
        size: Width and height in pixels.
        axes: Encodings of the horizontal and the vertical axis.
        hue: Result of `dark_to_light` or `both_ways`.
        tooltip: Result of `tips`.
        own_cycles: Native Nyquist limit of enlarged images in cycles/image. Tiles whose `cycles` exceed it are shaded.
            None if no images were enlarged.
        gap: Gap between tiles in pixels.
    """
    (x, y), (color, is_dark) = axes, hue
    base = plot(rows).encode(x=x, y=y, tooltip=list(tooltip))
    outline = {"stroke": "white", "strokeWidth": gap} if gap else {}
    tiles = base.mark_rect(**outline).encode(color=color)
    if "pale" in rows.columns:
        tiles = tiles.encode(opacity=alt.OpacityValue(1, condition=where("datum.pale", 0.25)))
        is_dark = f"!datum.pale && {is_dark}"
    layers = [tiles]
    if own_cycles is not None:
        shade = base.transform_filter(f"datum.cycles > {own_cycles}").mark_rect(color=FAINT, opacity=0.4)
        layers.append(shade.encode(tooltip=alt.TooltipValue(ENLARGED)))
    if "text" in rows.columns:
        # Choose the font size so that the text fits into the tiles of a narrow chart.
        letters = rows[x.shorthand[:-2]].n_unique() * (rows["text"].str.len_chars().max() or 1)
        font = alt.ExprRef(f"min(11, width / {0.62 * letters:.3g})")
        ink = alt.ColorValue(INK, condition=where(is_dark, "white"))
        text = base.encode(text=alt.Text("text:N"), color=ink)
        layers.append(text.transform_filter("!datum.bold").mark_text(fontSize=font))
        if "bold" in rows.columns:
            layers.append(text.transform_filter("datum.bold").mark_text(fontSize=font, fontWeight="bold"))
    properties = {"title": title, "width": size[0], "height": size[1]}
    return layered(*layers, **properties) if len(layers) > 1 else tiles.properties(**properties)


def names_axis(columns: int) -> alt.Axis:
    """Return an axis for names below the columns of a heat map: slanted for a few columns, otherwise vertical."""
    return alt.Axis(labelAngle=-40 if columns <= SLANTED_COLUMNS else -90)


def shade_enlarged(first: Any, last: Any, across: alt.X) -> Any:
    """Shade the frequencies above the native Nyquist limit of enlarged images.

    Args:
        first: Native Nyquist limit in cycles/image.
        last: Highest frequency of the chart in cycles/image.
        across: Encoding of the horizontal axis.
    """
    rows = pl.DataFrame({"cycles": [min(first, last)], "last": [last]})
    shade = plot(rows).mark_rect(color=FAINT, opacity=0.25)
    return shade.encode(x=across, x2="last:Q", tooltip=alt.TooltipValue(ENLARGED))


# Static images, and the scripts that draw charts on a page


def svg_of(spec: dict[str, Any]) -> str:
    """Render a Vega-Lite specification as SVG."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec, vl_version=vega_lite_version()))


PROGRAM = """
import sys
from bandlens.core.jobs import end_with_parent
end_with_parent(int(sys.argv[2]))
import vl_convert
script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=sys.argv[1])
sys.stdout.buffer.write(script.encode())
"""
"""Program that writes the bundle of JavaScript libraries to its standard output."""


def vega_lite_version() -> str:
    """Return the major and minor version of Vega-Lite that Altair generates charts for, for example 6.4."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@cache
def begin_libraries() -> Future[str]:
    """Start to bundle Vega, Vega-Lite and Vega-Embed into one script, once per process.

    Call `result` of the returned future to wait for the script. A child process makes it, because it takes 200 MB of
    memory, and a second during which no other thread of this process could run.
    """
    executor = ThreadPoolExecutor(1)
    libraries = executor.submit(_make_libraries)
    executor.shutdown(wait=False)
    return libraries


def _make_libraries() -> str:
    # The child process also ends at a signal, or when this process ends. Its traceback would not help the user, so its
    # standard error is discarded.
    command = [sys.executable, "-P", "-c", PROGRAM, vega_lite_version(), str(os.getpid())]
    completed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if completed.returncode:
        raise UsageError("vl-convert-python does not make the scripts of the page; install it again")
    return completed.stdout.decode()
