"""`bandlens published`: the study's figures, its correlation table, and one's own numbers beside them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...protocol import SUBSET_TITLES
from ..console import Json, print_rows
from .options import Database

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(
    help="The published study's figures, its correlation table, and your numbers beside them.", no_args_is_help=True
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
    """Read the study's results file, or another source's files, into a results database, for SQL and other commands.

    A source that ships needs no DIR. Effective robustness is added where a source has the accuracies.

    Example: bandlens published import critical-band critical-band-masking --db results.duckdb
    """
    import polars as pl

    from ...analysis.database.open import open_store
    from ...analysis.published.figures import read_benchmark
    from ...analysis.published.imports import read_import
    from ...analysis.published.relate import baseline_lines, effective_values
    from ...analysis.published.sources import find_source, shipped_values, sources
    from ...errors import UsageError

    if folder is None and (source not in sources() or Path(source).exists()):
        figures = read_benchmark(Path(source))
        with open_store(db) as store:
            store.write_published(figures)
        print(f"{db}: {len(figures)} published values of {figures['model'].n_unique()} models")
        return
    described = find_source(source)
    if folder is None and not described.ships:
        raise UsageError(
            f"{source} does not ship; give the folder of its files: bandlens published import {source} DIR"
        )
    values, trials = (shipped_values([source]), None) if folder is None else read_import(described, folder)
    values = pl.concat([values, effective_values(values, baseline_lines(shipped_values(), "testbed"), "testbed")])
    with open_store(db) as store:
        store.write_source(source, values, trials)
    print(f"{db}: {len(values)} values of {values['model'].n_unique()} models from {described.title}")
    print(described.terms)


@app.command("list")
def list_(db: AtlasDb = None, as_json: Json = False) -> None:
    """List the sources of published figures: models, benchmarks, licence and commit; with --json whose they are, too.

    Example: bandlens published list
    """
    from ...analysis.published.sources import count_figures

    rows = list(count_figures(_atlas(db)))
    if as_json:
        print_rows(rows, as_json=True)
        return
    print_rows([{name: row[name] for name in ("source", "models", "benchmarks", "licence", "commit")} for row in rows])
    if absent := [row["source"] for row in rows if row["here"] is None]:
        print(f"not here: {', '.join(absent)} (`bandlens published import`)")


@app.command("sources")
def sources_(
    model: Annotated[str, typer.Argument(help="A model, by its name in any source.", show_default=False)],
    db: AtlasDb = None,
    as_json: Json = False,
) -> None:
    """Print all published figures of a model, and how far sources of the same checkpoint are apart.

    Intervals and notes are shown where a figure has one.

    Example: bandlens published sources tv_resnet50
    """
    from ...analysis.published.names import values_of_model

    rows = values_of_model(_atlas(db), model)
    empty = [] if as_json else [name for name in ("low", "high", "note") if rows[name].is_null().all()]
    print_rows(rows.drop(empty).to_dicts(), as_json=as_json)
    if not as_json and (others := rows["model"].unique().sort().to_list())[1:]:
        print(f"{model} is the name of {len(others)} models: {', '.join(others)}")


@app.command()
def agree(
    models: Annotated[bool, typer.Option("--models", help="Each model, not only means and ends.")] = False,
    as_json: Json = False,
) -> None:
    """Compare the study's accuracies with those of the same checkpoints in other sources, and say why they differ.

    Example: bandlens published agree --models
    """
    from ...analysis.published.names import agreement
    from ...analysis.published.sources import atlas

    means, each = agreement(atlas())
    print_rows((each if models else means).to_dicts(), as_json=as_json)


class Grounds(StrEnum):
    study = "study"
    timm = "timm"
    critical_band = "critical-band"


@app.command()
def relate(
    models: Annotated[Grounds, typer.Option("--models", help="Whose biases and accuracies.")] = Grounds.timm,
    db: AtlasDb = None,
    as_json: Json = False,
) -> None:
    """Correlate biases with accuracies over many models: in all, within families, and between the means of families.

    Spearman's coefficients; p shuffles models within their families, or families as wholes.

    Example: bandlens published relate --models study
    """
    from ...analysis.published.relate import ground, relations, sentences

    values = _atlas(db)
    rows = relations(ground(values, models.value))
    if as_json:
        print_rows(rows.to_dicts(), as_json=True)
        return
    shown = ("bias", "benchmark", "n", "families", "overall", "partial", "within", "p_within", "between", "p_between")
    titles = {"partial": "given imagenet", "within": "within families", "between": "between families"}
    print_rows(
        [{titles.get(name, name): _two(name, row[name]) for name in shown} for row in rows.to_dicts()],
        title="{} models of {} families".format(*rows.select("n", "families").max().row(0)),
    )
    study = relations(ground(values, "study")) if models is Grounds.critical_band else None
    for sentence in sentences(rows, study):
        print(sentence)


COEFFICIENTS = ("overall", "partial", "within", "between")


def _two(name: str, value: Any) -> Any:
    """A coefficient with two decimals."""
    return value if value is None or name not in COEFFICIENTS else f"{round(float(value), 2) + 0:.2f}"


@app.command("joined")
def joined_(
    db: Database = Path("results.duckdb"),
    study: Annotated[
        str, typer.Option("--study", help="Name, or name@version; * is the newest version of each.")
    ] = "*",
    as_json: Json = False,
) -> None:
    """Print which published model each checkpoint of a results database is, and by what: weights, study or name.

    Example: bandlens published joined --db results.duckdb
    """
    from ...analysis.database.open import open_store
    from ...analysis.published.joined import joined
    from ...analysis.published.sources import atlas

    with open_store(db, read_only=True) as store:
        print_rows(joined(store, study, atlas(store)).to_dicts(), as_json=as_json)


@app.command()
def place(
    model: Annotated[
        str, typer.Argument(help="A model, by its name in any source, or a checkpoint of --db.", show_default=False)
    ],
    db: AtlasDb = None,
    as_json: Json = False,
) -> None:
    """Print where a model stands among all of timm's: its rank, and what its ImageNet accuracy lets one expect.

    Example: bandlens published place tf_efficientnet_lite0.in1k
    """
    from ...analysis.database.open import open_store
    from ...analysis.published.joined import published_name
    from ...analysis.published.relate import place

    values = _atlas(db)
    if db is not None:
        with open_store(db, read_only=True) as store:
            model, by = published_name(store, "*", checkpoint := model, values)
        if by is not None and not as_json:
            print(f"{checkpoint} is {model}, by its {by}")
    rows = place(values, model)
    print_rows(
        rows.drop("model").to_dicts() if not as_json else rows.to_dicts(), as_json=as_json, title=rows["model"][0]
    )


@app.command()
def fits(as_json: Json = False) -> None:
    """Print the lines that effective robustness is measured from, with their R2.

    Example: bandlens published fits
    """
    from dataclasses import asdict

    from ...analysis.published.relate import BASELINES, baseline_lines
    from ...analysis.published.sources import atlas

    values = atlas()
    rows = [
        {"baseline": name, "benchmark": benchmark, **asdict(line)}
        for name in BASELINES
        for benchmark, line in baseline_lines(values, name).items()
    ]
    print_rows(rows, as_json=as_json)


@app.command()
def table(
    db: Annotated[
        Path | None, typer.Option(help="Take the figures from this results database instead of the shipped ones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print Spearman's correlation of six biases with four kinds of generalization; 0 where p >= 0.05, as published.

    Example: bandlens published table --json
    """
    from ...analysis.published.figures import correlation_table, shipped_figures

    rows = correlation_table(shipped_figures() if db is None else _imported_figures(db))
    if as_json:
        print_rows(rows, as_json=True)
        return
    for subset, title in SUBSET_TITLES.items():
        mine = [row for row in rows if row["subset"] == subset]
        counts = sorted({row["n"] for row in mine})
        print_rows(_wide(mine), title=f"{title} models (n = {', '.join(map(str, counts))})")


@app.command()
def check(
    db: Database = Path("results.duckdb"),
    study: Annotated[
        str | None, typer.Option("--study", help="Name, or name@version, in the database.", show_default="the only one")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set your clean top-1, spectral ratios, group means and biases beside the published ones, with the difference.

    The interval is that of your own number. docs/findings.md says what is wrong with the published figures.

    Example: bandlens published check --db results.duckdb
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import study_label
    from ...analysis.published.check import check_published

    with open_store(db, read_only=True) as store:
        label = study_label(store, study)
        found = check_published(store, label)
    rows = found.rows.to_dicts()
    if as_json:
        print(json.dumps({"study": label, "rows": rows, "left_out": found.left_out}, indent=1))
        return
    faults = list(dict.fromkeys(row["fault"] for row in rows if row["fault"]))
    print_rows([_beside(row, faults) for row in rows], title=f"{label} beside the published study")
    for number, fault in enumerate(faults, 1):
        print(f"[{number}] {fault}")
    compared, outside = found.rows["difference"].count(), found.rows["outside"].sum()
    print(f"{compared} numbers compared; {outside} published ones lie outside the interval of yours")
    for line in found.left_out:
        print(line)


def _atlas(db: Path | None) -> pl.DataFrame:
    from ...analysis.database.open import open_store
    from ...analysis.published.sources import atlas

    if db is None:
        return atlas()
    with open_store(db, read_only=True) as store:
        return atlas(store)


def _beside(row: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    low, high = row["difference_low"], row["difference_high"]
    return {
        "checkpoint": row["model"],
        "published figure": row["figure"],
        "metric": row["metric"],
        "own": row["own"],
        "published": row["published"],
        "difference": row["difference"],
        "95 % interval": "-" if low is None else f"{low:.3g} … {high:.3g}",
        "outside": "*" if row["outside"] else "",
        "fault": f"[{faults.index(row['fault']) + 1}]" if row["fault"] else "",
        "note": row["note"] or "",
    }


def _imported_figures(db: Path) -> Any:
    from ...analysis.database.open import open_store
    from ...analysis.published.figures import SOURCE, figures_from_benchmark
    from ...errors import UsageError

    if not db.exists():
        raise UsageError(f"no results database {db}; make one with `bandlens published import FILE --db {db}`")
    with open_store(db, read_only=True) as store:
        published = store.frame("SELECT model, metric, value, source FROM published")
    published = published.filter(published["source"] == SOURCE)
    if published.is_empty():
        raise UsageError(f"{db} holds no published figures; run `bandlens published import FILE --db {db}` first")
    return figures_from_benchmark(published)


def _wide(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One row a bias, one column a group."""
    wide: dict[str, dict[str, str]] = {}
    for row in rows:
        shown = "-" if row["spearman"] is None else f"{row['spearman']:.2f}"
        wide.setdefault(row["bias"], {"bias": row["bias"]})[row["group"]] = shown
    return list(wide.values())
