"""The page of a card: what was predicted for an H100 beside what was measured, and what failed, with where to look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """A figure that a card is asked for."""

    title: str
    unit: str
    predicted: str = ""


def figures_of_runs(stage: str, engine: str, single: str = "", many: str = "") -> dict[str, Figure]:
    """The rows on whole runs."""
    figures = {}
    for label, networks, predicted in (("1", "1 network", single), ("48", "48 networks", many)):
        name, key = f"{engine} fp16, {networks}: ", f"{stage}.{label}"
        figures[f"{key}.bare"] = Figure(name + "bare loop", "images/s")
        figures[f"{key}.run"] = Figure(name + "run over it", "ratio", predicted)
        figures[f"{key}.busy"] = Figure(name + "share of the time in networks", "ratio")
    return figures


FIGURES: Mapping[str, Figure] = {
    "kernels.words": Figure("random words that differ from NumPy's", "", "0"),
    "kernels.normals": Figure("normal noise, largest deviation", "", "2e-6"),
    "kernels.bilateral": Figure("bilateral filter, largest deviation", "", "2e-6"),
    "kernels.octaves": Figure("16 masks of octaves, largest deviation", "", "2e-6"),
    "kernels.reduced": Figure("classes and ranks that `reduce_logits` gives and NumPy does not", "", "0"),
    "kernels.confidence": Figure("confidence, largest deviation", "", "2e-6"),
    "kernels.spectral": Figure("22 spectral conditions, largest deviation", ""),
    "kernels.band": Figure("29 critical-band conditions, largest deviation", ""),
    "fault.line": Figure("whether an illegal access ends a run with one line", "", "1"),
    "memory.line": Figure("whether a batch without room ends with one line, which names one that fits", "", "1"),
    "plans.first": Figure("building an fp16 plan", "s"),
    "plans.again": Figure("building it again with its timings", "s"),
    "plans.open": Figure("opening one plan 48 times", "s"),
    "rates.fp16.256": Figure("TensorRT fp16, batch 256", "images/s", "30,000 to 34,000"),
    "rates.int8.256": Figure("TensorRT int8, batch 256", "images/s", "58,000 to 67,000"),
    "rates.fp16.1024": Figure("TensorRT fp16, batch 1,024", "images/s", "30,000 to 34,000"),
    "rates.int8.1024": Figure("TensorRT int8, batch 1,024", "images/s", "58,000 to 67,000"),
    "rates.fp16.256.trtexec": Figure("TensorRT fp16 over trtexec", "ratio"),
    "rates.fp16.grid": Figure("the grid in fp16: 48 networks, 52 conditions, 50,000 images", "min", "61 to 70"),
    "rates.int8.grid": Figure("the grid in int8", "min", "32 to 37"),
    **figures_of_runs("tensorrt", "tensorrt", many="0.95 or more"),
    "torch.differ": Figure("rows in torch-cuda fp32 that are not the CPU's", "", "0"),
    "torch.flush": Figure("a flush of a minute of 48 networks, without storing", "s"),
    **figures_of_runs("torch", "torch-cuda"),
    "settings.plain": Figure("TensorRT fp16, batch 256, a plain plan", "images/s"),
    "settings.level": Figure("with level 5", "images/s"),
    "settings.tiling": Figure("with tiling", "images/s"),
    "settings.level_tiling": Figure("with both", "images/s"),
}
"""Each figure, and what was predicted of it for an H100 before any GPU had been met."""
STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em 1em .2em 0;text-align:left;vertical-align:top}"


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each figure that was predicted or measured."""
    measured, cards = (
        {f"{stage}.{name}": value for stage, record in results["stages"].items() for name, value in record[key].items()}
        for key in ("figures", "cards")
    )
    rows = []
    for key in dict.fromkeys([*FIGURES, *measured]):
        figure = FIGURES.get(key, Figure(key, ""))
        if key in measured or figure.predicted:
            rows.append({"figure": key, **figure._asdict(), "measured": measured.get(key), "card": cards.get(key, "")})
    return rows


def describe(key: str, value: float) -> str:
    """A figure in a line."""
    figure = FIGURES.get(key, Figure(key, ""))
    return f"{figure.title}: {value:.4g} {figure.unit}".rstrip()


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def write_page(folder: Path, results: Mapping[str, Any]) -> None:
    """Write page.html and page.json: the rows, the stages, and the machine."""
    rows = rows_of(results)
    (folder / "page.json").write_text(json.dumps({**results, "rows": rows}, indent=1), encoding="utf-8")
    stages = [
        [name, record["state"], f"{record['seconds']:.0f}"]
        + [record.get(key, "") for key in ("line", "place", "command")]
        for name, record in results["stages"].items()
    ]
    figures = [
        [
            row["title"],
            row["predicted"],
            "" if row["measured"] is None else f"{row['measured']:.4g}",
            row["unit"],
            row["card"],
        ]
        for row in rows
    ]
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{escape(results['machine']['card'])}</title><style>{STYLE}</style>",
        f"<h1>Predicted and measured</h1><p>{escape(machine)}</p>",
        html_table(["figure", "predicted for an H100", "measured", "unit", "what the card did"], figures),
        "<h2>Stages</h2>",
        html_table(["stage", "state", "seconds", "line", "place", "command"], stages),
    ]
    (folder / "page.html").write_text("\n".join(parts), encoding="utf-8")
