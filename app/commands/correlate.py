"""`bandlens correlate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from ...protocol import SUBSET_TITLES
from .. import api
from ..console import Json, print_rows
from .completion import complete_study

if TYPE_CHECKING:
    import polars as pl


class Method(StrEnum):
    spearman = "spearman"
    pearson = "pearson"
    kendall = "kendall"


class Accuracies(StrEnum):
    raw = "raw"
    effective = "effective"


class Baseline(StrEnum):
    testbed = "testbed"
    standard = "standard"
    timm = "timm"


def correlate(
    db: Annotated[
        Path | None,
        typer.Option("--db", help="Take metrics and accuracies from this results database.", show_default="published"),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="Name, or name@version, in the database.",
            show_default="the only one",
            autocompletion=complete_study,
        ),
    ] = None,
    bias: Annotated[
        list[str] | None, typer.Option("--bias", help="A bias to correlate, again for more.", show_default="all")
    ] = None,
    method: Annotated[Method, typer.Option("--method", help="Which coefficient.")] = Method.spearman,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Of the bootstrap over models, and permutations.", min=100, max=100_000)
    ] = 10_000,
    target: Annotated[
        Accuracies, typer.Option("--target", help="Accuracies as they are, or effective robustness.")
    ] = Accuracies.raw,
    baseline: Annotated[
        Baseline, typer.Option("--baseline", help="Which definition of effective robustness; only testbed is Taori's.")
    ] = Baseline.standard,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="The published table: 72 values, 0 where p >= 0.05, uncorrected.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Correlate every bias with every kind of generalization, with intervals, permutation tests and correction.

    Without --db, the published figures of the study's 48 models. docs/guide/compare.md explains every number.

    Example: bandlens correlate --method kendall --json
    """
    if as_published:
        if db or study or bias or target != Accuracies.raw or method != Method.spearman:
            raise UsageError("--as-published is the study's own table, Spearman over its 48 models; give it alone")
        from .published import table

        table(as_json=as_json)
        return
    if study and not db:
        raise UsageError("--study is a study of a database; give --db too, or neither for the published figures")
    correlated = api.results.correlate(
        db,
        study,
        biases=bias or (),
        method=method.value,
        resamples=resamples,
        target=target.value,
        baseline=baseline.value,
    )
    rows = correlated.rows
    if as_json:
        print_rows(rows.to_dicts(), as_json=True)
        return
    if correlated.lines:
        print_rows(correlated.lines, title=f"Effective robustness, {correlated.definition}")
    for subset in rows["subset"].unique(maintain_order=True):
        _print_subset(rows.filter(subset=subset), subset, correlated.partial_on)
    print(_tests_in_words(rows))


def _print_subset(rows: pl.DataFrame, subset: str, partial_on: str | None) -> None:
    counts = ", ".join(map(str, sorted(rows["n"].unique())))
    over_images = rows["low_images"].is_not_null().any()
    print_rows(
        [_shown(row, partial_on, over_images) for row in rows.to_dicts()],
        title=f"{SUBSET_TITLES[subset]} models (n = {counts})",
    )
    for clause in dict.fromkeys(clause for note in rows["note"] if note for clause in note.split("; ")):
        print(f"  {clause}")
    print()


def _shown(row: dict[str, Any], partial_on: str | None, over_images: bool) -> dict[str, Any]:
    return {
        "bias": row["bias"],
        "group": row["group"],
        row["method"]: _number(row["coefficient"]),
        "95 % interval": _range(row["low"], row["high"]),
        **({"and images": _range(row["low_images"], row["high_images"])} if over_images else {}),
        "p": _p(row["p"]),
        "permuted": _p(row["p_permutation"]),
        "Holm": _p(row["p_holm"]),
        "BH": _p(row["p_bh"]),
        f"given {partial_on}" if partial_on else "partial": _number(row["partial"]),
        "without a category": _range(row["loco_low"], row["loco_high"]),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0:.2f}"  # + 0: no minus before a zero


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{_number(low)} … {_number(high)}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value >= 0.00005 else f"{value:.0e}"


def _tests_in_words(rows: pl.DataFrame) -> str:
    from ...analysis.statistics.arrays import ALPHA

    tested = rows.drop_nulls("p")
    counts = [int((tested[name] < ALPHA).sum()) for name in ("p", "p_permutation", "p_holm", "p_bh")]
    return (
        f"{len(tested)} of {len(rows)} correlations tested; below {ALPHA}: p {counts[0]}, permutation p {counts[1]}, "
        f"after Holm {counts[2]}, after Benjamini-Hochberg {counts[3]}"
    )
