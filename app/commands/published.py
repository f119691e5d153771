"""`bandlens published`: figures of a thousand models, their sources, lines and correlations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.protocol import SUBSET_TITLES
from .. import api
from ..console import TableFormat, print_note, print_rows, print_tables
from ..formats import Format
from .options import Database

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(
    help="Published figures: import, show and relate them, and the study's correlation table.", no_args_is_help=True
)

AtlasDb = Annotated[
    Path | None, typer.Option("--db", help="Also the sources imported into this results database.", show_default="none")
]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A source that `published show` lists.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The folder of the source's files.", show_default=False)
    ] = None,
    db: Database = Path("results.duckdb"),
) -> None:
    """Read a source's files into a results database, for SQL and other commands.

    A source that ships needs no DIR. Effective robustness, as the testbed defines it and over 1,000 classes, is added
    where a source has the accuracies.

    Example: bandlens published import critical-band critical-band-masking --db results.duckdb
    """
    publication = api.published.import_published(source, folder, db)
    print(f"{db}: {publication.values} values of {publication.models} models from {publication.source}")
    print(publication.terms)
    if publication.trials:
        print(f"{publication.trials:,} trials of people: run `bandlens analyze` again to set models beside them")


@app.command()
def show(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|fits]",
            help="A model, by its name in any source, or a checkpoint of --db; or the lines that effective robustness "
            "is measured from.",
            show_default="the sources",
        ),
    ] = None,
    db: AtlasDb = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Print the sources of published figures; or where a model stands among all of timm's, and all figures of it.

    With --db and no model also which published model each checkpoint is, by its weights, study or name. Of a model:
    its rank, and what its ImageNet accuracy lets one expect by the line of all timm models, and by that of models
    trained in its way (within).

    Example: bandlens published show tf_efficientnet_lite0.in1k
    """
    frames = api.published.show_published(model, db)
    if table_format.is_for_programs:
        print_tables({title: frame.to_dicts() for title, frame in frames.items()}, table_format)
        return
    tables = {_title(name, frame): _shown(name, frame) for name, frame in frames.items() if len(frame)}
    print_tables(tables, table_format, titles=("model", "metric", "unit"))
    if "sources" in frames:
        sources_lacking = [row["source"] for row in frames["sources"].to_dicts() if row["here"] is None]
        if sources_lacking:
            print_note(f"not here: {', '.join(sources_lacking)} (`bandlens published import`)", table_format)
    elif "figures" in frames and (namesakes := frames["figures"]["model"].unique().sort().to_list())[1:]:
        print_note(f"{model} is the name of {len(namesakes)} models: {', '.join(namesakes)}", table_format)


def _title(name: str, frame: pl.DataFrame) -> str:
    """The title of a table; that of places names the model and the lines that it is expected by."""
    if name != "places":
        return name
    model, training = frame.row(0)[:2]
    return f"{model} (expected: by the line of all timm models; within: by that of {training} models)"


def _shown(name: str, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table for people, without what stands in its title or is empty."""
    hidden = {
        "sources": ("values", "here", "repository", "title"),
        "places": ("model", "training"),
        "figures": [
            column for column in ("low", "high", "note") if name == "figures" and frame[column].is_null().all()
        ],
    }
    return frame.drop(hidden.get(name, ()), strict=False).to_dicts()


@app.command()
def relate(
    models: Annotated[
        Literal["study", "timm", "critical-band"], typer.Option("--models", help="Whose biases and accuracies.")
    ] = "timm",
    db: AtlasDb = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Correlate biases with accuracies over many models: in all, within families, and between the means of families.

    Spearman's coefficients; p shuffles models within their families, or families as wholes.

    Example: bandlens published relate --models study
    """
    rows, sentences = api.published.relate_published(models, db)
    if table_format.is_for_programs:
        print_rows(rows.to_dicts(), table_format)
        return
    columns = ("bias", "benchmark", "n", "families", "overall", "partial", "within", "p_within", "between", "p_between")
    titles = {"partial": "given imagenet", "within": "within families", "between": "between families"}
    shown = _two_decimals if table_format == Format.table else lambda _name, value: value
    print_rows(
        [{titles.get(name, name): shown(name, row[name]) for name in columns} for row in rows.to_dicts()],
        table_format,
        "{} models of {} families".format(*rows.select("n", "families").max().row(0)),
    )
    for sentence in sentences:
        print_note(sentence, table_format)


COEFFICIENTS = ("overall", "partial", "within", "between")


def _two_decimals(name: str, value: Any) -> Any:
    """A coefficient with two decimals; any other value as it is."""
    return value if value is None or name not in COEFFICIENTS else f"{round(float(value), 2) + 0:.2f}"


@app.command()
def table(table_format: TableFormat = Format.table) -> None:
    """Print Spearman's correlation of six biases with four kinds of generalization; 0 where p >= 0.05, as published.

    Example: bandlens published table --format latex
    """
    rows = api.published.published_table()
    if table_format.is_for_programs:
        print_rows(rows, table_format)
        return
    tables = {}
    for subset, title in SUBSET_TITLES.items():
        rows_of_subset = [row for row in rows if row["subset"] == subset]
        counts = sorted({row["n"] for row in rows_of_subset})
        rows_by_bias = _wide(rows_of_subset, in_words=table_format == Format.table)
        tables[f"{title} models (n = {', '.join(map(str, counts))})"] = rows_by_bias
    print_tables(tables, table_format)


def _wide(rows: list[dict[str, Any]], in_words: bool) -> list[dict[str, Any]]:
    """A row for each bias, with a column for each group; `in_words`, coefficients have two decimals."""
    rows_by_bias: dict[str, dict[str, Any]] = {}
    for row in rows:
        coefficient = row["spearman"]
        if in_words and coefficient is not None:
            coefficient = f"{coefficient:.2f}"
        rows_by_bias.setdefault(row["bias"], {"bias": row["bias"]})[row["group"]] = coefficient
    return list(rows_by_bias.values())
