"""`bandlens published`: the study's figures and its correlation table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import Json, print_rows

app = typer.Typer(help="The published study's figures and its correlation table.", no_args_is_help=True)

SUBSET_TITLES = {
    "total": "All models",
    "adversarial_training": "Adversarially trained models",
    "other": "Other models",
}


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The study's benchmark.csv.")],
    db: Annotated[Path, typer.Option(help="The results database to write to.")] = Path("results.duckdb"),
) -> None:
    """Read the study's results file into the table `published` of a results database.

    Example: bandlens published import benchmark.csv --db results.duckdb
    """
    from ...analysis.published import read_benchmark
    from ...analysis.store import open_store

    figures = read_benchmark(file)
    with open_store(db) as store:
        store.write_published(figures)
    print(f"{db}: {len(figures)} published values of {figures['model'].n_unique()} models")


@app.command()
def table(
    db: Annotated[
        Path | None, typer.Option(help="Take the figures from this results database instead of the shipped ones.")
    ] = None,
    json: Json = False,
) -> None:
    """Print Spearman's correlation of six biases with four kinds of generalization; 0 where p >= 0.05, as published.

    Example: bandlens published table --json
    """
    from ...analysis.published import correlation_table, shipped_figures

    rows = correlation_table(shipped_figures() if db is None else _imported_figures(db))
    if json:
        print_rows(rows, as_json=True)
        return
    for subset, title in SUBSET_TITLES.items():
        mine = [row for row in rows if row["subset"] == subset]
        counts = sorted({row["n"] for row in mine})
        print_rows(_wide(mine), title=f"{title} (n = {', '.join(map(str, counts))})")


def _imported_figures(db: Path) -> Any:
    from ...analysis.published import SOURCE, figures_from_benchmark
    from ...analysis.store import open_store
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
        wide.setdefault(row["bias"], {"bias": row["bias"]})[row["generalization"]] = shown
    return list(wide.values())
