"""The sections on a study itself: its verdict, verdicts of gates, its size, and where its numbers come from."""

from __future__ import annotations

import json

import polars as pl

from ...analysis.charts.grammar import vega_lite_version
from ...analysis.comparison.gates import VERDICTS, count_verdicts
from ...analysis.comparison.verdict import Verdict
from ...core.errors import plural
from ...core.records import Missing
from .data import ReportData
from .measured import filter_figures
from .page import cell
from .sections import Section, Table

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
