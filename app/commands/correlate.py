"""`bandlens correlate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.protocol import SUBSET_TITLES
from ..api import results
from ..printing import Format, TableFormat, print_note, print_rows, print_tables
from ..terminal import command

if TYPE_CHECKING:
    import polars as pl


def print_correlated(correlated: results.Correlated, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens correlate --method kendall --format csv"""
    rows = correlated.rows
    if table_format.is_for_programs:
        print_rows(rows.to_dicts(), table_format)
        return
    subsets = {
        f"{SUBSET_TITLES[subset]} models (n = {', '.join(map(str, sorted(subset_rows['n'].unique())))})": subset_rows
        for (subset,), subset_rows in rows.group_by("subset", maintain_order=True)
    }
    lines = {f"Effective robustness, {correlated.definition}": correlated.lines} if correlated.lines else {}
    if table_format == Format.table:
        for title, lines_of_target in lines.items():
            print_rows(lines_of_target, title=title)
        for title, subset_rows in subsets.items():
            over_images = subset_rows["low_images"].is_not_null().any()
            words = [_row_for_people(row, correlated.partial_on, over_images) for row in subset_rows.to_dicts()]
            print_rows(words, title=title)
            for clause in dict.fromkeys(clause for note in subset_rows["note"] if note for clause in note.split("; ")):
                print(f"  {clause}")
            print()
    else:
        tables = {
            title: [_numbers(row, correlated.partial_on) for row in subset_rows.to_dicts()]
            for title, subset_rows in subsets.items()
        }
        print_tables(lines | tables, table_format)
    print_note(_tests_in_words(rows), table_format)


def _numbers(row: dict[str, Any], partial_on: str | None) -> dict[str, Any]:
    """The row for a paper, with numbers that its format rounds."""
    method = row["method"]
    numbers = {"bias": row["bias"], "group": row["group"], method: row["coefficient"]}
    numbers |= {f"{method}_low": row["low"], f"{method}_high": row["high"]}
    numbers |= {name: row[name] for name in ("p", "p_permutation", "p_holm", "p_bh")}
    return numbers | {f"given {partial_on}" if partial_on else "partial": row["partial"]}


def _row_for_people(row: dict[str, Any], partial_on: str | None, over_images: bool) -> dict[str, Any]:
    """The row for a terminal, in two decimals."""
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
    from ...analysis.statistics import ALPHA

    tested_rows = rows.drop_nulls("p")
    counts = [int((tested_rows[name] < ALPHA).sum()) for name in ("p", "p_permutation", "p_holm", "p_bh")]
    text = (
        f"{len(tested_rows)} of {len(rows)} correlations tested; below {ALPHA}: p {counts[0]}, permutation p "
        f"{counts[1]}, after Holm {counts[2]}, after Benjamini-Hochberg {counts[3]}"
    )
    uncertain = tested_rows.filter(tested_rows["p_holm"] >= ALPHA)
    if uncertain.is_empty():
        return text
    sizes = dict.fromkeys(_number(end(uncertain["detectable"])) for end in (min, max))
    by_models = ", by the number of models," if len(sizes) > 1 else ""
    return (
        f"{text}\nno correlation was found in {len(uncertain)} after Holm; one smaller than "
        f"{' to '.join(sizes)}{by_models} could not have been found"
    )


COMMANDS: dict[str, Any] = {"correlate": command(results.correlate, print_correlated)}
