"""`bandlens correlate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.protocol import SUBSET_TITLES
from ..api import results
from ..printing import Format, TableFormat, print_note, print_rows, print_tables
from ..terminal import command

if TYPE_CHECKING:
    import polars as pl

COLUMNS = (
    *("bias", "group", "coefficient", "low", "high", "low_images", "high_images", "p", "p_least", "p_permutation"),
    *("p_holm", "p_bh", "detectable", "partial", "loco_low", "loco_high"),
)
"""Columns that people are shown of correlations."""


def print_correlated(correlated: results.Correlated, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens correlate --method pearson --format csv"""
    from ...analysis.correlations.table import model_counts

    rows = correlated.rows
    if table_format.is_for_programs:
        print_rows(rows.to_dicts(), table_format)
        return
    optional = ("low_images", "high_images", "p_least")
    columns = [name for name in COLUMNS if name not in optional or rows[name].count()]
    method, partial = rows["method"][0], f"given {correlated.partial_on}" if correlated.partial_on else "partial"
    titles = {"coefficient": method, "low": f"{method}_low", "high": f"{method}_high", "partial": partial}
    titles |= {"p_least": "least possible p"}
    tables = {f"Effective robustness, {correlated.definition}": correlated.lines} if correlated.lines else {}
    for (subset,), subset_rows in rows.group_by("subset", maintain_order=True):
        title = f"{SUBSET_TITLES[subset]} models (n = {', '.join(map(str, model_counts(subset_rows)))})"
        tables[title] = subset_rows.select(columns).rename(titles, strict=False).to_dicts()
    print_tables(tables, table_format)
    for clause in dict.fromkeys(clause for note in rows["note"].drop_nulls() for clause in note.split("; ")):
        print_note(clause, table_format)
    print_note(_tests_in_words(rows), table_format)


def _tests_in_words(rows: pl.DataFrame) -> str:
    from ...analysis.correlations.table import HOLDS
    from ...analysis.statistics import ALPHA

    tests = rows.drop_nulls("p")
    counts = [int((tests[name] < ALPHA).sum()) for name in ("p", "p_permutation", "p_bh")]
    uncertain = tests.filter(~HOLDS)
    text = (
        f"{len(tests)} of {len(rows)} correlations tested; below {ALPHA}: p {counts[0]}, permutation p {counts[1]}, "
        f"after Benjamini-Hochberg {counts[2]}; holding after Holm: {len(tests) - len(uncertain)}"
    )
    if uncertain.is_empty():
        return text
    negation = "correlation does" if len(uncertain) == 1 else "correlations do"
    text += f"\n{len(uncertain)} {negation} not hold after Holm"
    detectable = uncertain["detectable"].drop_nulls()
    if detectable.is_empty():
        return text
    sizes = dict.fromkeys(f"{end(detectable):.2f}" for end in (min, max))
    by_models = ", by the number of models," if len(sizes) > 1 else ""
    return f"{text}; one smaller than {' to '.join(sizes)}{by_models} could not have been found"


COMMANDS: dict[str, Any] = {"correlate": command(results.correlate, print_correlated)}
