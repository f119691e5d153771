"""`bandlens published`: figures of a thousand models, their sources, lines and correlations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ...core.errors import UsageError
from ...core.protocol import SUBSET_TITLES
from .. import api
from ..console import TableFormat, print_note, print_rows, print_tables
from ..formats import Format
from .options import Database, NewestStudies

app = typer.Typer(
    help="Published figures: import, show, relate and place them, and the study's correlation table.",
    no_args_is_help=True,
)

AtlasDb = Annotated[
    Path | None, typer.Option("--db", help="Also the sources imported into this results database.", show_default="none")
]


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="FILE|SOURCE", help="The study's benchmark.csv; or a source that `list` shows.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The folder of the source's files.", show_default=False)
    ] = None,
    db: Database = Path("results.duckdb"),
) -> None:
    """Read a source's files into a results database: the study's results file or others, for SQL and other commands.

    A source that ships needs no DIR. Effective robustness, as the testbed defines it and over 1,000 classes, is added
    where a source has the accuracies.

    Example: bandlens published import critical-band critical-band-masking --db results.duckdb
    """
    publication = api.published.import_published(source, folder, db)
    if publication.source is None:
        print(f"{db}: {publication.values} published values of {publication.models} models")
    else:
        print(f"{db}: {publication.values} values of {publication.models} models from {publication.source}")
        print(publication.terms)
    if publication.trials:
        print(f"{publication.trials:,} trials of people: run `bandlens analyze` again to set models beside them")


@app.command("list")
def list_(db: AtlasDb = None, table_format: TableFormat = Format.table) -> None:
    """List the sources of published figures: models, benchmarks, licence, commit; csv and json say whose they are.

    Example: bandlens published list
    """
    rows = api.published.list_sources(db)
    if table_format.is_for_programs:
        print_rows(rows, table_format)
        return
    columns = ("source", "models", "benchmarks", "licence", "commit")
    print_rows([{name: row[name] for name in columns} for row in rows], table_format)
    if absent := [row["source"] for row in rows if row["here"] is None]:
        print_note(f"not here: {', '.join(absent)} (`bandlens published import`)", table_format)


@app.command()
def show(
    view: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|fits|agree",
            help="All figures of a model, by its name in any source; the lines that effective robustness is measured "
            "from; or the study's accuracies less those of the same checkpoints in other sources.",
            show_default=False,
        ),
    ],
    by: Annotated[
        Literal["model", "training"] | None,
        typer.Option("--by", help="fits: lines by way of training; agree: a row for each model.", show_default="none"),
    ] = None,
    db: AtlasDb = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Print published figures of a model, lines with their R2, or how far sources agree.

    Example: bandlens published show fits --by training
    """
    groupings = {"fits": "training", "agree": "model"}
    if by not in (None, groupings.get(view)):
        raise UsageError(
            f"--by {by}: `published show {view}` has no such rows; give fits --by training, agree --by model"
        )
    if view in groupings and db is not None:
        raise UsageError(f"--db: `published show {view}` takes the sources that come along alone; leave it out")
    if view == "fits":
        print_rows(api.published.effective_lines("training" if by else "baseline"), table_format)
    elif view == "agree":
        means, of_models = api.published.compare_sources()
        print_rows((of_models if by else means).to_dicts(), table_format)
    else:
        _show_model(view, db, table_format)


def _show_model(model: str, db: Path | None, table_format: Format) -> None:
    """Print the figures of a model; intervals and notes are columns where a figure has one."""
    rows = api.published.values_of_model(model, db)
    complete = table_format.is_for_programs
    empty = [] if complete else [name for name in ("low", "high", "note") if rows[name].is_null().all()]
    print_rows(rows.drop(empty).to_dicts(), table_format, titles=("model", "metric", "unit"))
    if not complete and (namesakes := rows["model"].unique().sort().to_list())[1:]:
        print_note(f"{model} is the name of {len(namesakes)} models: {', '.join(namesakes)}", table_format)


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


@app.command("joined")
def joined_(
    db: Database = Path("results.duckdb"),
    study: NewestStudies = "*",
    table_format: TableFormat = Format.table,
) -> None:
    """Print which published model each checkpoint of a results database is, and by what: weights, study or name.

    Example: bandlens published joined --db results.duckdb
    """
    print_rows(api.published.join_published(db, study).to_dicts(), table_format)


@app.command()
def place(
    model: Annotated[
        str, typer.Argument(help="A model, by its name in any source, or a checkpoint of --db.", show_default=False)
    ],
    db: AtlasDb = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Print where a model stands among all of timm's: its rank, and what its ImageNet accuracy lets one expect.

    Example: bandlens published place tf_efficientnet_lite0.in1k
    """
    rows, joined_by = api.published.place_model(model, db)
    published_name = rows["model"][0]
    if table_format.is_for_programs:
        print_rows(rows.to_dicts(), table_format)
        return
    if joined_by is not None:
        print_note(f"{model} is {published_name}, by its {joined_by}", table_format)
    title = (
        f"{published_name} (baseline timm: the line of all timm models; within: that of {rows['training'][0]} models)"
    )
    print_rows(rows.drop("model", "training").to_dicts(), table_format, title)


@app.command()
def table(
    db: Annotated[
        Path | None, typer.Option(help="Take the figures from this results database instead of the shipped ones.")
    ] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Print Spearman's correlation of six biases with four kinds of generalization; 0 where p >= 0.05, as published.

    Example: bandlens published table --format latex
    """
    rows = api.published.published_table(db)
    if table_format.is_for_programs:
        print_rows(rows, table_format)
        return
    tables = {}
    for subset, title in SUBSET_TITLES.items():
        of_subset = [row for row in rows if row["subset"] == subset]
        counts = sorted({row["n"] for row in of_subset})
        wide = _wide(of_subset, in_words=table_format == Format.table)
        tables[f"{title} models (n = {', '.join(map(str, counts))})"] = wide
    print_tables(tables, table_format)


def _wide(rows: list[dict[str, Any]], in_words: bool) -> list[dict[str, Any]]:
    """A row for each bias, with a column for each group; `in_words`, coefficients have two decimals."""
    wide: dict[str, dict[str, Any]] = {}
    for row in rows:
        coefficient = row["spearman"]
        if in_words and coefficient is not None:
            coefficient = f"{coefficient:.2f}"
        wide.setdefault(row["bias"], {"bias": row["bias"]})[row["group"]] = coefficient
    return list(wide.values())
