"""The curves of a study as one picture."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl

from ..analysis.charts.curves import band_map, curves
from ..analysis.charts.style import CONFIG
from ..export.files import write_bytes
from .report.accuracy import CUT, SPECTRAL


def draw_curves(curve: pl.DataFrame, out: Path) -> None:
    """Write low-pass and high-pass curves and the critical-band matrix of one checkpoint as PNG.

    Args:
        curve: rows of the view `curve`.
        out: the file.
    """
    import vl_convert

    panels = [
        curves(curve.filter(pl.col("probe") == probe), "cycles", CUT, title)
        for probe, title in SPECTRAL.items()
        if probe in set(curve["probe"])
    ]
    if "critical_band" in set(curve["probe"]):
        panels.append(band_map(curve, "critical band"))
    title = f"{curve['checkpoint'][0]} on {curve['image_set'][0]} ({curve['n'][0]} images): {curve['measure'][0]}"
    chart = alt.hconcat(*panels).properties(title=f"{title}, 95 % intervals")
    write_bytes(out, vl_convert.vegalite_to_png(chart.to_dict() | {"config": CONFIG}, scale=1.25))
