"""The page of a card: what was predicted beside what was measured, and what failed, with where to look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .figures import FIGURES, NOT_PREDICTED, Figure

STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em 1em .2em 0;text-align:left;vertical-align:top}"


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each figure that was predicted or measured."""
    measured = {
        f"{stage}.{name}": value
        for stage, record in results["stages"].items()
        for name, value in record["figures"].items()
    }
    cards = {
        f"{stage}.{name}": words
        for stage, record in results["stages"].items()
        for name, words in record.get("cards", {}).items()
    }
    rows = []
    for key in dict.fromkeys([*FIGURES, *measured]):
        figure = FIGURES.get(key, Figure(key, ""))
        if key in measured or figure.predicted != NOT_PREDICTED:
            rows.append({"figure": key, **figure._asdict(), "measured": measured.get(key), "card": cards.get(key, "")})
    return rows


def markdown_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each row that a figure of FIGURES has."""
    lines = []
    for row in rows:
        if row["figure"] in FIGURES:
            predicted = "" if row["predicted"] == NOT_PREDICTED else row["predicted"]
            measured = "" if row["measured"] is None else f"; {row['measured']:.4g} measured"
            lines.append(f"- {row['what']}: {' '.join(filter(None, (predicted, row['unit'])))}{measured}")
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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
            row["what"],
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
        table(["figure", "predicted for an H100", "measured", "unit", "what the card did"], figures),
        "<h2>Stages</h2>",
        table(["stage", "state", "seconds", "line", "place", "command"], stages),
    ]
    (folder / "page.html").write_text("\n".join(parts), encoding="utf-8")
