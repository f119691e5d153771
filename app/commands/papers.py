"""`bandlens papers`: numbers that authors printed, recomputed from their files, or beside one's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.errors import UsageError
from .. import api
from ..console import TableFormat, print_document, print_note, print_rows
from ..formats import Format
from .options import OneStudy


def papers(
    paper: Annotated[
        str | None, typer.Argument(help="Print every number of this paper.", show_default="all, counted")
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            help="A folder with a folder of each paper's name, which has its authors' files.",
            show_default="none",
        ),
    ] = None,
    db: Annotated[
        Path | None,
        typer.Option("--db", help="Set the numbers of a study in it beside the published ones.", show_default="none"),
    ] = None,
    study: OneStudy = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Recompute the numbers that papers printed; or set yours beside the published study's, with the difference.

    Yours are clean top-1, spectral ratios, group means and biases, and the interval is that of your own number.
    docs/findings.md says what is wrong with the published figures.

    Example: bandlens papers --files papers
    """
    if db is None and study is None:
        _print_papers(paper, files, table_format)
    elif paper is not None or files is not None:
        raise UsageError("--db and --study are about your own numbers; leave out the paper and --files")
    else:
        _print_own_numbers(db or Path("results.duckdb"), study, table_format)


def _print_papers(paper: str | None, files: Path | None, table_format: Format) -> None:
    rows, figures = api.published.recompute_papers(paper, files)
    if table_format == Format.json:
        print_document({"papers": rows, "figures": figures.to_dicts()}, table_format)
        return
    if paper is not None or table_format == Format.csv:
        print_rows(figures.to_dicts(), table_format)
    else:
        columns = ("paper", "figures", "equal", "licence", "commit", "recomputed_by", "repository")
        print_rows([{name: row[name] for name in columns} for row in rows], table_format)
    note = partial(print_note, table_format=table_format)
    note(f"{figures['equal'].sum():,} of {len(figures):,} numbers are equal to the printed ones")
    for name, why, count in (
        figures.filter(~figures["equal"]).group_by("paper", "why", maintain_order=True).len().rows()
    ):
        note(f"{name}: {count:,} differ{'s' * (count == 1)}: {why}")
    for row in rows:
        if row["figures"] is None:
            note(f"not here: {row['paper']}, {row['printed']}; {row['advice']}")


def _print_own_numbers(db: Path, study: str | None, table_format: Format) -> None:
    label, comparison = api.published.check_published(db, study)
    rows = comparison.rows.to_dicts()
    if table_format == Format.json:
        print_document({"study": label, "rows": rows, "left_out": comparison.left_out}, table_format)
        return
    if table_format == Format.csv:
        print_rows(rows, table_format)
        return
    faults = list(dict.fromkeys(row["fault"] for row in rows if row["fault"]))
    in_words = table_format == Format.table
    shown = [_comparison_row(row, faults, in_words) for row in rows]
    print_rows(shown, table_format, f"{label} beside the published study")
    note = partial(print_note, table_format=table_format)
    for number, fault in enumerate(faults, 1):
        note(f"[{number}] {fault}")
    compared, outside = comparison.rows["difference"].count(), comparison.rows["outside"].sum()
    note(f"{compared} numbers compared; {outside} published ones lie outside the interval of yours")
    for line in comparison.left_out:
        note(line)


def _comparison_row(row: dict[str, Any], faults: list[str], in_words: bool) -> dict[str, Any]:
    low, high = row["difference_low"], row["difference_high"]
    if in_words:
        interval = {"95 % interval": "-" if low is None else f"{low:.3g} … {high:.3g}"}
    else:
        interval = {"difference_low": low, "difference_high": high}
    return {
        "checkpoint": row["model"],
        "published figure": row["figure"],
        "metric": row["metric"],
        "own": row["own"],
        "published": row["published"],
        "difference": row["difference"],
        **interval,
        "outside": "*" if row["outside"] else "",
        "fault": f"[{faults.index(row['fault']) + 1}]" if row["fault"] else "",
        "note": row["note"] or "",
    }
