"""Where the numbers come from: the end of the report."""

from __future__ import annotations

import json

import polars as pl

from ...analysis.charts.grammar import vega_lite_version
from ...analysis.comparison.gates import count_verdicts
from .data import ReportData
from .page import cell
from .sections import Section, Table

GATE = (
    *("checkpoint", "image_set", "probe", "parameters", "cycles", "reference", "candidate", "n", "reference_top1"),
    *("candidate_top1", "difference", "low", "high", "lost", "gained", "p", "flips", "flips_low", "flips_high"),
    *("verdict", "needed", "max_flips", "max_difference", "decided"),
)
"""Columns of the table of gates."""


def overview(results: ReportData | None, path: str) -> Section:
    """The size and date of the study; or a line that says that the database holds none."""
    if results is None:
        text = [
            f"{path} holds no study yet: `bandlens run STUDY.toml --db {path}` makes one. What follows is published."
        ]
        return Section("overview", "Overview", text)
    facts = {
        "Study": results.label,
        "Models": cell(len(results.checkpoints)),
        "Image sets": cell(len(results.image_sets)),
        "Images": cell(int(results.image_sets["count"].sum())),
        "Conditions": cell(len(results.conditions)),
        "Predictions": cell(results.predictions),
        "Last run": cell(results.study["last_run"]),
    }
    text = []
    if results.other_studies:
        text.append(f"Also in this database: {', '.join(results.other_studies)}; `--study NAME` chooses.")
    return Section("overview", "Overview", text, facts=facts)


def provenance(results: ReportData) -> Section:
    """Versions, digests, machines, seeds, image counts, and the study file."""
    study, cells = results.study, results.cells
    facts = {
        "bandlens": str(study["bandlens"]),
        "Host": str(study["host"]),
        "First run": cell(study["first_run"]),
        "Precision": _listed(cells["precision"]),
        "Seeds": _listed(cells["seed"]),
        "Decision space": _listed(cells["decision_space"]),
        "Charts": f"Vega-Lite {vega_lite_version()}",
    }
    headless = [] if results.checkpoints["head"].count() else ["head"]
    failed = cells.filter(pl.col("error").is_not_null())
    tables = [
        Table("Models", results.checkpoints.drop("id", *headless)),
        Table("Image sets", results.image_sets.drop("id").select(pl.col("*").exclude("corruption", "severity"))),
        Table("Sessions: engine, device, library versions", _versions(results.sessions)),
        Table("Conditions", results.conditions.select("probe", "parameters", "digest"), folded=True),
    ]
    if len(failed):
        tables.insert(0, Table("Cells that failed", failed.group_by("error", maintain_order=True).agg(cells=pl.len())))
    if len(results.gates):
        rows = results.gates.select(*GATE)
        tables = [
            Table("Precision gates", count_verdicts(rows)),
            Table("Precision gates, by condition", rows, folded=True),
            *tables,
        ]
    text = [f"Digest of the study's cells: {study['digest']}. The study file, as it was last run, is at the end."]
    return Section("provenance", "Provenance", text, tables=tables, facts=facts, listing=str(study["toml"]))


def _listed(values: pl.Series) -> str:
    return ", ".join(str(value) for value in values.unique().sort()) or "–"


def _versions(sessions: pl.DataFrame) -> pl.DataFrame:
    shown = [
        ", ".join(f"{name} {version}" for name, version in json.loads(text).items()) for text in sessions["versions"]
    ]
    return sessions.with_columns(pl.Series("versions", shown, dtype=pl.String))
