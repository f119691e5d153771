"""The grammar of all charts: style, colours and shapes, rows, layers, tooltips, tiles, picking and a page's program."""

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
"""Resolution of a PNG for a paper."""
PICK = "picked"
"""Name of the parameter that holds the model or category picked, or nothing."""
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
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Colours that colour-blind readers tell apart (Okabe & Ito 2008)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
PEOPLE = "humans"
"""The subject that is drawn in black among models."""
COLORED_MODELS = 7
"""The most models that have a colour and a shape each; more have those of their categories."""
SLANTED_COLUMNS = 12
"""Names of columns that have room aslant below a map of 3.5 in."""
CENTER = "centre of the noise (cycles per image)"
INTERVAL = {"low": "95 % from", "high": "to"}
"""Column of an end of an interval -> its title in tooltips."""
IMAGES, CYCLES = ("n", "images", "d"), ("cycles", "cycles per image", ".4~g")
"""Lines of tooltips."""
ENLARGED = "Grey: more than a tenth of the images were enlarged, and have nothing of their own here."
"""The tooltip of shades over frequencies that enlarged originals do not have."""


Domain = tuple[float, float]
"""Ends of an axis, or of a scale of colours."""


def words(name: str) -> str:
    return name.replace("_", " ")


# Colours and shapes


def colors(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name -> (colour, shape); the study's categories keep theirs wherever they appear."""
    distinct = list(dict.fromkeys(names))
    study = {name: place for place, name in enumerate(CATEGORIES) if name in distinct}
    free = [place for place in range(len(OKABE_ITO)) if place not in study.values()] or range(len(OKABE_ITO))
    places = dict(zip((name for name in distinct if name not in study), cycle(free), strict=False)) | study
    looks = {name: (OKABE_ITO[places[name]], SHAPES[places[name]]) for name in distinct}
    return looks | ({PEOPLE: (INK, "circle")} if PEOPLE in looks else {})


def series_of(frame: pl.DataFrame) -> str:
    """The field that lines are coloured by: `model` where there are few in the column `checkpoint`, else `category`."""
    return "model" if frame["checkpoint"].n_unique() <= COLORED_MODELS else "category"


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


# Rows, layers, tooltips and picking


def plot(rows: pl.DataFrame, **properties: Any) -> Any:
    """A chart that holds the rows: six digits, and nothing that JSON cannot hold."""
    finite = rows.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float().cast(pl.Float64).round_sig_figs(6)).name.keep()
    )
    # Each step of a chart copies lists of rows, and no tuples.
    return Plot(alt.InlineData(values=tuple(finite.to_dicts())), **properties)


class _Printed:
    """A chart in the style of all, whose `save` makes a PNG of 300 dots per inch unless `ppi` says another number.

    A notebook shows a picture of it, unless it enables a renderer of Altair: the default one needs the internet.
    """

    def to_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        spec: dict[str, Any] = super().to_dict(*arguments, **options)  # type: ignore[misc]
        if "$schema" in spec:  # the outermost chart
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
    """A chart of one mark."""


class Panels(_Printed, alt.ConcatChart):
    """Charts beside each other."""


class Layers(_Printed, alt.LayerChart):
    """A chart of layers, of which `alt.LayerChart` would make six deep copies: half of the time of a report."""

    def __init__(self, data: Any = alt.Undefined, layer: Sequence[Any] = (), **properties: Any) -> None:
        alt.TopLevelLayerSpec.__init__(self, data=data, layer=list(layer), **properties)


def layered(*layers: Any, picks: bool = False, **properties: Any) -> Any:
    """One chart of the layers, with its title and size; `picks` gives it the parameter that fades what is not picked.

    Layers without rows are left out, and rows that all layers draw are there once.
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
    """The number of rows that the layer with most of them draws: no chart is worth its frame for one dot, or none."""
    parts = (chart, *getattr(chart, "layer", ()))
    return max(len(part.data.values) for part in parts if part.data is not alt.Undefined)


def two_a_row(panels: Iterable[Any]) -> Any:
    """The panels as one chart."""
    return Panels(concat=list(panels), columns=2)


def tips(*lines: str | tuple[str, str, str]) -> list[alt.Tooltip]:
    """The lines of a tooltip: columns of text by their names, and (column, title, format) of numbers.

    `low` and `high` are the ends of the 95 % interval of the number before them, and have its format.
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
    """The condition of a channel that takes a value where an expression holds.

    Altair takes 5 ms to find the class of each `alt.condition`, which would be a quarter of a report's time.
    """
    return {"test": test, "value": value}


def picked() -> alt.Parameter:
    """A chart with this parameter fades what `faded` is told to; the report sets it from buttons and lists."""
    return alt.param(name=PICK, value="")


def faded(full: float = 1) -> Any:
    """Opacity `full` while nothing is picked; then 1 for the model or category that is, and 0.08 for the others.

    Rows have `model` and `category`.
    """
    no_pick, matches = f"{PICK} == ''", f"datum.model == {PICK} || datum.category == {PICK}"
    return alt.OpacityValue(0.08, condition=[where(no_pick, full), where(matches, 1)])


# Tiles and axes


Hue = tuple[alt.Color, str]
"""The colour of a column's numbers, and a Vega expression of `datum` for those on which letters are white."""
BELOW = alt.Legend(orient="bottom", gradientLength=alt.ExprRef("min(200, width)"))
"""The legend of a map whose tiles have no text."""


def dark_to_light(
    value: str, domain: Sequence[float], middle: float, title: Any = alt.Undefined, legend: Any = None, **scale: Any
) -> Hue:
    """Hues of a column from dark to light over the domain; letters are black above the middle."""
    hues = alt.Scale(scheme="viridis", domain=list(domain), **scale)
    return alt.Color(f"{value}:Q", title=title, legend=legend, scale=hues), f"!(datum.{value} > {middle:g})"


def both_ways(value: str, reach: float, title: Any = alt.Undefined, legend: Any = None) -> Hue:
    """Hues of a column from orange at `-reach` over white to purple at `reach`."""
    hues = alt.Scale(scheme="purpleorange", domain=[-reach, reach], reverse=True)
    return alt.Color(f"{value}:Q", title=title, legend=legend, scale=hues), f"abs(datum.{value}) > {0.72 * reach:.4g}"


def two_lines(separator: str) -> str:
    """A Vega expression for labels that begin a second line with the separator: narrow charts cut a long line."""
    return f"split(replace(datum.label, ' {separator}', '\\n{separator}'), '\\n')"


def signed(number: float | None, digits: str = "z.2f", star: bool | None = False) -> str:
    """The text of a number on a tile, with a true minus sign, which zero has not, and with a star where it has one."""
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
    """A map of so many pixels across and down, with a tile for each row, `gap` pixels apart.

    Columns say how a tile looks: `text` stands on it, `bold` is whether in bold type, `pale` whether the tile is pale.
    Tiles whose `cycles` lie above `own_cycles`, the highest frequency of enlarged originals, are shaded.
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
        # Letters are as large as a narrow chart has room for.
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
    """The axis of names below so many columns of a map: aslant, or upright where they are many."""
    return alt.Axis(labelAngle=-40 if columns <= SLANTED_COLUMNS else -90)


def shade_enlarged(first: Any, last: Any, across: alt.X) -> Any:
    """A shade from the highest frequency of enlarged originals to the last one, in cycles per image."""
    rows = pl.DataFrame({"cycles": [min(first, last)], "last": [last]})
    shade = plot(rows).mark_rect(color=FAINT, opacity=0.25)
    return shade.encode(x=across, x2="last:Q", tooltip=alt.TooltipValue(ENLARGED))


# Pictures, and the program that draws charts on a page


def svg_of(spec: dict[str, Any]) -> str:
    """The picture of a chart's Vega-Lite, as SVG."""
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


def vega_lite_version() -> str:
    """The version of Vega-Lite that the charts are written for: 6.4 of v6.4.1."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@cache
def begin_libraries() -> Future[str]:
    """Begin to make the one script of Vega, Vega-Lite and Vega-Embed, once a process; its `result` waits for it.

    A process of its own makes it, since that takes 200 MB, and a second in which no other thread here could go on.
    """
    executor = ThreadPoolExecutor(1)
    libraries = executor.submit(_make_libraries)
    executor.shutdown(wait=False)
    return libraries


def _make_libraries() -> str:
    # A signal or the end of this process ends the program, too, which is not worth a traceback.
    command = [sys.executable, "-P", "-c", PROGRAM, vega_lite_version(), str(os.getpid())]
    completed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if completed.returncode:
        raise UsageError("vl-convert-python does not make the scripts of the page; install it again")
    return completed.stdout.decode()
