"""`bandlens published`: figures of a thousand models, and their sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...api import published
from ..command_factory import command
from ..tables import Format, TableFormat, print_note, print_tables

if TYPE_CHECKING:
    import polars as pl

    from ...api.published import Publication

HIDDEN_COLUMNS = ("values", "here", "repository", "title")
"""Columns of sources that people are not shown."""


def print_publication(publication: Publication, db: Path) -> None:
    """Example: bandlens published import humans model-vs-human --db results.duckdb"""
    print(f"{db}: {publication.values} values of {publication.models} models from {publication.source}")
    print(publication.terms)
    if publication.trials:
        print(f"{publication.trials:,} trials of people: run `bandlens analyze` again to set models beside them")


def print_published(
    frames: Mapping[str, pl.DataFrame], model: str | None, table_format: TableFormat = Format.table
) -> None:
    """Example: bandlens published show tf_efficientnet_lite0.in1k"""
    if table_format.is_for_programs:
        print_tables({title: frame.to_dicts() for title, frame in frames.items()}, table_format)
        return
    tables = {
        name: frame.drop(HIDDEN_COLUMNS if name == "sources" else ()).to_dicts()
        for name, frame in frames.items()
        if len(frame)
    }
    print_tables(tables, table_format, titles=("model", "metric", "unit"))
    if "sources" in frames:
        sources_lacking = [row["source"] for row in frames["sources"].to_dicts() if row["here"] is None]
        if sources_lacking:
            print_note(f"not here: {', '.join(sources_lacking)} (`bandlens published import`)", table_format)
    elif "figures" in frames and (namesakes := frames["figures"]["model"].unique().sort().to_list())[1:]:
        print_note(f"{model} is the name of {len(namesakes)} models: {', '.join(namesakes)}", table_format)


COMMANDS: dict[str, Any] = {
    "published": {
        "import": command(published.import_published, print_publication),
        "show": command(published.show_published, print_published),
    }
}
