"""`bandlens correlate`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UnknownName, UsageError
from ...protocol import SUBSET_TITLES
from ..console import Json, print_rows
from .completion import complete_study

if TYPE_CHECKING:
    import polars as pl

    from ...analysis.correlations.models import StudyTable


class Method(StrEnum):
    spearman = "spearman"
    pearson = "pearson"
    kendall = "kendall"


class Accuracies(StrEnum):
    raw = "raw"
    effective = "effective"


class Baseline(StrEnum):
    testbed = "testbed"
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
        Baseline, typer.Option("--baseline", help="Of effective robustness: whose accuracies set what is expected.")
    ] = Baseline.testbed,
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
    from ...analysis.correlations.models import subsets_of
    from ...analysis.correlations.table import correlate as correlate_frame

    if target is Accuracies.effective:
        found = _effective(db, study, baseline.value, as_json)
    else:
        found = _published() if db is None else _of_database(db, study)
    biases = _chosen(bias, found.biases)
    subsets = subsets_of(found.frame)
    rows = correlate_frame(
        found.frame, biases, found.groups, subsets, method.value, found.control, resamples, errors=found.errors
    )
    if as_json:
        print_rows(rows.to_dicts(), as_json=True)
        return
    for subset in subsets:
        _print_subset(rows.filter(subset=subset), subset, found.control)
    print(_summary(rows))


def _published() -> StudyTable:
    from ...analysis.correlations.models import StudyTable
    from ...analysis.published.figures import BIASES, PUBLISHED_GROUPS, shipped_figures

    return StudyTable(shipped_figures(), list(BIASES), list(PUBLISHED_GROUPS), "ID")


def _effective(db: Path | None, study: str | None, baseline: str, as_json: bool) -> StudyTable:
    """Effective robustness in place of accuracies, given that on ImageNet; prints the lines it is measured from."""
    from dataclasses import asdict

    from ...analysis.correlations.models import StudyTable, study_table
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import study_label
    from ...analysis.published.relate import baseline_lines, study_models, with_accuracies, with_effective
    from ...analysis.published.sources import atlas

    values = atlas()
    lines = baseline_lines(values, baseline)
    if db is None:
        table = _published()
        frame = study_models(values)
    else:
        with open_store(db, read_only=True) as store:
            label = study_label(store, study)
            table = study_table(store, label, with_errors=False)  # the errors are those of the accuracies
            frame = with_accuracies(store, label, table.frame)
    frame, targets = with_effective(frame, lines)
    if not as_json:
        rows = [{"benchmark": name, **asdict(line)} for name, line in lines.items() if f"effective_{name}" in targets]
        print_rows(rows, title=f"Probit lines over ImageNet, baseline {baseline}")
    return StudyTable(frame, table.biases, targets, "imagenet")


def _of_database(db: Path, study: str | None) -> StudyTable:
    from ...analysis.correlations.models import study_table
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import study_label

    with open_store(db, read_only=True) as store:
        return study_table(store, study_label(store, study))


def _chosen(wanted: Sequence[str] | None, known: list[str]) -> list[str]:
    for name in wanted or []:
        if name not in known:
            raise UnknownName("bias", name, known)
    return list(dict.fromkeys(wanted)) if wanted else known


def _print_subset(rows: pl.DataFrame, subset: str, given: str | None) -> None:
    counts = ", ".join(map(str, sorted(rows["n"].unique())))
    over_images = rows["low_images"].is_not_null().any()
    shown = [_shown(row, given, over_images) for row in rows.to_dicts()]
    print_rows(shown, title=f"{SUBSET_TITLES[subset]} models (n = {counts})")
    for clause in dict.fromkeys(clause for note in rows["note"] if note for clause in note.split("; ")):
        print(f"  {clause}")
    print()


def _shown(row: dict[str, Any], given: str | None, over_images: bool) -> dict[str, Any]:
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
        f"given {given}" if given else "partial": _number(row["partial"]),
        "without a category": _range(row["loco_low"], row["loco_high"]),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0:.2f}"  # + 0: no minus before a zero


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{_number(low)} … {_number(high)}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value >= 0.00005 else f"{value:.0e}"


def _summary(rows: pl.DataFrame) -> str:
    from ...analysis.statistics.arrays import ALPHA

    tested = rows.drop_nulls("p")
    counts = [int((tested[name] < ALPHA).sum()) for name in ("p", "p_permutation", "p_holm", "p_bh")]
    return (
        f"{len(tested)} of {len(rows)} correlations tested; below {ALPHA}: p {counts[0]}, permutation p {counts[1]}, "
        f"after Holm {counts[2]}, after Benjamini-Hochberg {counts[3]}"
    )
