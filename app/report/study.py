"""The sections on a study itself: its verdict, what changed, verdicts of gates, its size, and its origin."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from ...analysis.charts.grammar import vega_lite_version, words
from ...analysis.charts.maps import difference_map
from ...analysis.comparison.cells import DIFFERS, Compared, Run, compare_cells
from ...analysis.comparison.gates import VERDICTS, count_verdicts
from ...analysis.comparison.measures import compare_measures
from ...analysis.comparison.verdict import Verdict, compare_verdict
from ...analysis.database.open import names_database, open_store, relative_path
from ...analysis.database.studies import earlier_label, with_facts
from ...core.errors import plural
from ...core.records import Missing
from .data import ReportData
from .measured import filter_figures
from .page import Figure, Section, Table, cell

TITLE_LETTERS = 240
"""Letters of a title: of a longer finding the title has the first clause, and the section the whole."""
AGREEMENT = (
    "Images without labels: what is drawn is agreement of each model with its own prediction for the unperturbed "
    "image, which is 1 without perturbation."
)
GATE_COLUMNS = (
    *("checkpoint", "image_set", "probe", "parameters", "cycles", "reference", "candidate", "n", "reference_top1"),
    *("candidate_top1", "difference", "low", "high", "lost", "gained", "p", "flips", "flips_low", "flips_high"),
    *("verdict", "needed", "max_flips", "max_difference", "decided"),
)
RELEASE_COLUMNS = (
    *("against", "checkpoint", "image_set", "probe", "parameters", "cycles", "slice", "measure", "n", "before", "now"),
    *("loss", "loss_low", "loss_high", "margin", "verdict", "needed", "flips", "relative_flips", "decided"),
)
HALF_PAGE_MODELS = 5
"""Models that leave room for their numbers on half of a page."""
CHANGES_CAPTION = (
    "Percentage points of top-1, this study minus the other, over the same images; orange fell, purple rose. Bold with "
    "a star: p < 0.05 (McNemar) after Holm's correction over all cells. Hover, or open the table, for the 95 % "
    "interval of the difference."
)


def page_title(results: ReportData | None, against: Verdict | None) -> str:
    """The title of the page: the finding where there is one."""
    findings = _findings(results, against)
    if findings:
        return _title_of(findings[0])
    return f"Frequency bias and generalization: {results.label}" if results else "Frequency bias and generalization"


def _title_of(finding: str) -> str:
    title = finding.removesuffix(".")
    return title if len(title) <= TITLE_LETTERS else title.partition(";")[0]


def _findings(results: ReportData | None, against: Verdict | None) -> list[str]:
    return [*(against.findings if against else []), *(results.verdict.findings if results else [])]


def verdict_section(results: ReportData, against: Verdict | None) -> Section:
    """The sentences below the title, warnings, and the first picture of half cuts.

    `against` is the verdict on the study that this one is compared with.
    """
    undetermined = [*(against.undetermined if against else []), *results.verdict.undetermined]
    if isinstance(results.correlated, Missing):
        why = results.correlated.reason
        undetermined.append(f"Not determined: whether biases explain generalization, since {why}.")
    findings = _findings(results, against)
    if findings and findings[0] == f"{_title_of(findings[0])}.":
        findings = findings[1:]
    text = [*findings, *undetermined, *(f"Warning: {doubt}." for doubt in results.doubts)]
    complete_count = int(results.cells["complete"].sum())
    if complete_count < len(results.cells):
        text.append(
            f"{complete_count:,} of {plural(len(results.cells), 'cell')} are complete, and only these are shown; "
            "`bandlens run` goes on where it stopped."
        )
    if not results.image_sets["labelled"].all():
        text.append(AGREEMENT)
    return results.section("verdict", "Verdict", filter_figures(results)[:1], text)


def changes_section(results: ReportData, against: str) -> tuple[Verdict, Section]:
    """Give the verdict on the study `against` and this one, and draw their differences.

    The section has a figure for each image set, and that a panel for each probe.

    Args:
        against: another results database, of which the study of the same name is taken, or else the one that ran last;
            or the name, or name@version, of a study of this database.

    Raises UsageError where there is nothing to compare with.
    """
    file, is_database = Path(against), names_database(against)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(results.path, read_only=True))
        store_a = stack.enter_context(open_store(file, read_only=True)) if is_database else store
        label = earlier_label(store_a, against, str(results.study["name"]))
        runs = Run(store_a, label), Run(store, results.label)
        comparison = compare_cells(*runs)
        verdict = compare_verdict(*runs, comparison.cells, compare_measures(*runs)[0])
    title = f"What changed against {label}" + (f" of {relative_path(file, results.path)}" if is_database else "")
    rows = changes(comparison, results)
    figures = [
        _changes_figure(results, rows.filter(pl.col("image_set") == name), name, number)
        for number, name in enumerate(rows["image_set"].unique().sort(), 1)
    ]
    return verdict, results.section("changes", title, figures, [_changes_in_words(comparison, rows)])


def changes(comparison: Compared, results: ReportData) -> pl.DataFrame:
    """The cells that can be compared, in the order of a figure, with `condition` in words and `differs`.

    before, after, difference and the ends low and high of its 95 % interval are in percentage points.
    """
    keys = ["image_set", "probe", "parameters"]
    cells = comparison.cells.filter(pl.col("difference").is_not_null()).join(
        results.curve.select(*keys, "cycles").unique(), on=keys, how="left", maintain_order="left"
    )
    rows = with_facts(cells, results.conditions)
    return rows.sort("image_set", "place", "checkpoint").select(
        "checkpoint",
        "image_set",
        "probe",
        pl.col("setting").replace("", "no parameters").alias("condition"),
        "n",
        before=100 * pl.col("top1_a"),
        after=100 * pl.col("top1_b"),
        difference=100 * pl.col("difference"),
        low=100 * pl.col("low"),
        high=100 * pl.col("high"),
        lost="lost",
        gained="gained",
        p_holm="p_holm",
        differs=DIFFERS,
    )


def _changes_in_words(comparison: Compared, rows: pl.DataFrame) -> str:
    """How many cells there are to compare, and how many differ; the verdict has the largest difference."""
    different = len(rows.filter("differs"))
    return (
        f"{plural(comparison.same, 'cell')} of one and the same predictions, {plural(len(rows), 'other')} to compare; "
        f"{len(comparison.only_b):,} only in this study, {len(comparison.only_a):,} only in the other. "
        f"{different:,} differ{'s' if different == 1 else ''} in accuracy (p < 0.05 after Holm's correction)."
    )


def _changes_figure(results: ReportData, rows: pl.DataFrame, image_set: str, number: int) -> Figure:
    reach = max(1.0, *rows["difference"].abs())
    panels = {
        probe: difference_map(part.rename({"checkpoint": "model"}).drop("image_set", "probe"), words(probe), reach)
        for (probe,), part in results.select_choice(rows).group_by("probe", maintain_order=True)
    }
    table, columns = rows.drop("image_set", "differs"), 2 if len(results.choice) <= HALF_PAGE_MODELS else 1
    return Figure(f"changes-{number}", f"Top-1 on {image_set}", CHANGES_CAPTION, panels, columns, table)


def releases_section(results: ReportData) -> Section:
    """The verdicts of `gate` against each release before this one: counts, the rows that do not pass, and all rows."""
    rows = results.releases.select(RELEASE_COLUMNS)
    text = [
        f"Against {against}: {', '.join(f'{len(part.filter(verdict=name)):,} {name}' for name in VERDICTS)}."
        for (against,), part in rows.group_by("against", maintain_order=True)
    ]
    tables = [
        Table("Verdicts by checkpoint", count_verdicts(rows, "loss")),
        Table("Rows that do not pass", rows.filter(pl.col("verdict") != "pass"), folded=True),
        Table("All rows", rows, folded=True),
    ]
    title = "Does it answer no worse than the release before it?"
    return Section("releases", title, text, tables=tables if len(rows) else [])


def overview(results: ReportData) -> Section:
    """The size and date of the study."""
    facts = {
        "Study": results.label,
        "Models": cell(len(results.checkpoints)),
        "Image sets": cell(len(results.image_sets)),
        "Images": cell(int(results.image_sets["count"].sum())),
        "Conditions": cell(len(results.conditions)),
        "Predictions": cell(results.predictions),
        "Last run": cell(results.study["last_run"]),
    }
    note = f"Also in this database: {', '.join(results.other_studies)}; `--study NAME` chooses."
    return Section("overview", "Overview", [note] if results.other_studies else [], facts=facts)


def provenance(results: ReportData) -> Section:
    """Versions, digests, machines, seeds, image counts, and the study file."""
    study, cells = results.study, results.cells
    facts = {
        "bandlens": str(study["bandlens"]),
        "Host": str(study["host"]),
        "First run": cell(study["first_run"]),
        "Precision": _join_values(cells["precision"]),
        "Seeds": _join_values(cells["seed"]),
        "Decision space": _join_values(cells["decision_space"]),
        "Charts": f"Vega-Lite {vega_lite_version()}",
    }
    failed_cells, gates = cells.filter(pl.col("error").is_not_null()), results.gates.select(GATE_COLUMNS)
    causes = failed_cells.group_by("error", maintain_order=True).agg(cells=pl.len())
    empty_columns = [] if results.checkpoints["head"].count() else ["head"]
    versions = [
        ", ".join(f"{name} {version}" for name, version in json.loads(text).items())
        for text in results.sessions["versions"]
    ]
    sessions = results.sessions.with_columns(pl.Series("versions", versions, pl.String))
    tables = [
        *([Table("Precision gates", count_verdicts(gates))] if len(gates) else []),
        *([Table("Precision gates, by condition", gates, folded=True)] if len(gates) else []),
        *([Table("Cells that failed", causes)] if len(failed_cells) else []),
        Table("Models", results.checkpoints.drop("id", *empty_columns)),
        Table("Image sets", results.image_sets.drop("id", "corruption", "severity")),
        Table("Sessions: engine, device, library versions", sessions),
        Table("Conditions", results.conditions.select("probe", "parameters", "digest"), folded=True),
    ]
    text = [f"Digest of the study's cells: {study['digest']}. The study file, as it was last run, is at the end."]
    return Section("provenance", "Provenance", text, tables=tables, facts=facts, listing=str(study["toml"]))


def _join_values(values: pl.Series) -> str:
    return ", ".join(str(value) for value in values.unique().sort()) or "–"
