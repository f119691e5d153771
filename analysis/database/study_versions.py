"""The studies of a database: which version a word asks for, its conditions, other names, and their end.

A word is a name, name@version, `*`, or nothing. SQL has it as `version_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ...core.errors import UnknownName, UsageError, quoted
from ...core.records import FREQUENCY_TITLES, frequency_in_words
from .catalogue import tables_with
from .store import Store

ORDER = "probe <> 'clean', probe, cutoff, noise_sd, frequency, parameters"
"""The order of conditions in SQL, by columns that all views of conditions have: along the numbers that probes vary."""
FACTS = ("setting", "series", "x", "x_title", "y", "y_title", "mirrored", "cuts", "place")


def study_versions(store: Store, word: str) -> pl.DataFrame:
    """List the versions that a word asks for, with study_id and label (name@version), the oldest study first.

    Args:
        word: a name asks for its newest version, a label for itself, `*` for the newest version of every study.

    Raises UnknownName where there is no such study. `*` has no rows in a database without studies.
    """
    query = "SELECT *, asks_for(?, study, label, newest) AS asked FROM study_version ORDER BY study_id"
    versions = store.frame(query, [word])
    if word != "*" and word not in versions["label"] and word not in versions["study"]:
        hint = f"`bandlens studies list --db {quoted(store.path)}` lists all"
        raise UnknownName("study", word, dict.fromkeys([*versions["study"], *versions["label"]]), hint)
    return versions.filter("asked").select("study_id", "label")


def study_label(store: Store, word: str | None) -> str:
    """The label of the one version that a word asks for; None and `*` ask for the only study there is.

    Raises UnknownName where there is no such study, UsageError where there is none at all, or several to choose from.
    """
    labels = study_versions(store, "*" if word is None else word)["label"].to_list()
    if not labels:
        raise UsageError(f"{store.path} holds no study; `bandlens run STUDY.toml --db {quoted(store.path)}` adds one")
    if len(labels) > 1:
        names = ", ".join(label.rpartition("@")[0] for label in labels)
        raise UsageError(f"{store.path} holds the studies {names}; name one of them with --study")
    return str(labels[0])


def earlier_label(store: Store, word: str | None, name: str) -> str:
    """The label of what a study `name` is compared with.

    It is the study that the word asks for; without one, the study of the same name, or else the one that ran last.
    Raises UnknownName, and UsageError where there is none.
    """
    if word is not None:
        return study_label(store, word)
    versions = store.frame("SELECT count(*) FROM study_version WHERE study = $1 OR label = $1", [name]).item()
    label = study_label(store, name) if versions else last_run(store)
    if label is None:
        raise UsageError(f"{store.path} holds no study to compare with; run one, or name another with --against")
    return label


def version_in(store: Store, word: str | None, precision: str) -> str:
    """The label of the newest version that was run in a precision, of those that a word asks for.

    Args:
        word: a name asks for all its versions, a label for itself, None for the only study there is.
        precision: such as fp32.

    Raises UnknownName and UsageError as `study_label`, and UsageError where none was run in it.
    """
    label = study_label(store, word)
    name = label if word == label else label.rpartition("@")[0]
    versions = store.frame(
        "SELECT DISTINCT study_id, label, precision FROM study_version JOIN study_cell ON study_cell.study = study_id "
        "JOIN cell ON cell.id = study_cell.cell JOIN condition ON condition.id = cell.condition "
        "WHERE ? IN (label, study_version.study) AND probe = 'clean' ORDER BY study_id",  # attacks are always in fp32
        [name],
    )
    labels = versions.filter(precision=precision)["label"]
    if labels.is_empty():
        precisions = ", ".join(versions["precision"].unique().sort())
        raise UsageError(
            f"{store.path}: {name} was run in {precisions}, and not in {precision}; "
            "set that precision in its file and run it"
        )
    return str(labels[-1])


def last_run(store: Store) -> str | None:
    """The label of the version that ran last, or None in a database without studies."""
    labels = store.frame(
        "SELECT label FROM study_version JOIN study ON study.id = study_id ORDER BY last_run DESC, id DESC LIMIT 1"
    )
    return None if labels.is_empty() else str(labels.item())


def read_conditions(store: Store, label: str) -> pl.DataFrame:
    """The rows of the table `condition` for a version of a study, with `place`, by which they are sorted.

    Without perturbation comes first, then probes and series as the study file has them, each along its axes, and sets
    of octaves, which have no axis, from the fewest octaves to the most. A probe with a condition at infinity has no
    numbers on its axes, since no chart reaches as far.
    """
    rows = store.frame(
        "SELECT * FROM condition SEMI JOIN (SELECT condition AS id FROM cell JOIN study_cell "
        "ON study_cell.cell = cell.id JOIN version_of(?) ON study_id = study_cell.study) USING (id)",
        [label],
    )
    finite = pl.col("x").is_finite().fill_null(value=True).all().over("probe")
    return (
        rows.with_columns(pl.when(finite).then(pl.col("x", "y")))
        .sort(
            pl.col("probe") != "clean",
            pl.col("id").min().over("probe"),
            # A merged database has sets of octaves in the order of their text.
            pl.when(pl.col("x").is_null().all().over("probe")).then(pl.col("setting").str.count_matches(r"\d")),
            pl.col("id").min().over("probe", "series"),
            "y",
            "x",
            "id",
        )
        .with_row_index("place")
    )


def with_facts(rows: pl.DataFrame, conditions: pl.DataFrame) -> pl.DataFrame:
    """Rows with columns probe and parameters, of the conditions of a study, with FACTS.

    Where rows have `cycles`, the setting of filters and bands has their frequency in cycles per image.
    """
    rows_with_facts = rows.join(
        conditions.select("probe", "parameters", *FACTS), on=["probe", "parameters"], how="left", maintain_order="left"
    )
    return rows_with_facts.with_columns(setting=frequency_settings()) if "cycles" in rows.columns else rows_with_facts


def frequency_settings() -> pl.Expr:
    """The column setting, with the frequency of filters and bands in cycles per image.

    Rows have the columns setting, series, x_title and cycles.
    """
    place = pl.col("x_title").replace_strict({title: place for place, title in FREQUENCY_TITLES.items()}, default=None)
    facts = pl.struct("series", "cycles", place=place)
    # Half a million rows of a thousand models have fifty settings: each is put into words once.
    words = facts.first().map_elements(_frequency_setting, pl.String).over("series", "cycles", "x_title")
    return pl.coalesce(words, "setting")


def _frequency_setting(row: Mapping[str, Any]) -> str | None:
    has_frequency = row["place"] is not None and row["cycles"] is not None
    return frequency_in_words(**row) if has_frequency else None


STUDIES = """
WITH users AS (SELECT cell, count(*) AS studies FROM study_cell GROUP BY cell)
SELECT label AS study, count(*) AS cells, count(*) FILTER (cell.complete) AS complete,
       count(*) FILTER (users.studies = 1) AS own, study.first_run, study.last_run, study.host, study.bandlens
FROM study_version JOIN study ON study.id = study_id JOIN study_cell ON study_cell.study = study_id
JOIN cell ON cell.id = study_cell.cell JOIN users ON users.cell = study_cell.cell
GROUP BY label, study.name, study.version, study.first_run, study.last_run, study.host, study.bandlens
ORDER BY study.name, study.version
"""


def list_studies(store: Store) -> pl.DataFrame:
    """A row for each version: study (name@version), its cells, how many are complete, and how many no other has."""
    return store.frame(STUDIES)


def rename_study(store: Store, name: str, to: str) -> int:
    """Give all versions of a study another name, and say how many they are.

    Raises UnknownName where there is no such study, UsageError where the other name is taken.
    """
    names = store.frame("SELECT DISTINCT name FROM study ORDER BY name")["name"]
    if name not in names:
        raise UnknownName("study", name, names)
    if to in names:
        raise UsageError(f"{store.path} has a study {to}; give another name, or delete that one first")
    versions = int(store.frame("SELECT count(*) FROM study WHERE name = ?", [name]).item())
    with store.transaction():
        store.execute(
            "UPDATE release_verdict SET against = concat($1, '@', version) "
            "FROM study WHERE name = $2 AND against = concat(name, '@', version)",
            [to, name],
        )
        store.execute(JUDGES)
        store.execute("UPDATE study SET name = ? WHERE name = ?", [to, name])
        store.execute(UNJUDGED)
    return versions


@dataclass(frozen=True, slots=True)
class Deletion:
    """Versions of a study that were deleted, or would be, and what goes with them."""

    labels: list[str]
    cells: int
    """Cells that nothing else uses."""
    predictions: int
    remaining_cells: int
    """Cells of the versions that stay, since others use them, or a precision gate has compared them."""


UNUSED = """
SELECT DISTINCT cell FROM study_cell WHERE list_contains(?, study)
AND cell NOT IN (SELECT cell FROM study_cell WHERE NOT list_contains(?, study))
AND cell NOT IN (SELECT reference FROM precision_gate UNION ALL SELECT candidate FROM precision_gate)
"""
JUDGES = "CREATE OR REPLACE TEMP TABLE judge AS SELECT images, subject, cell FROM named_judge('*')"
UNJUDGED = """
WITH gone AS MATERIALIZED (SELECT images, subject FROM judge ANTI JOIN named_judge('*') USING (images, subject, cell))
DELETE FROM error_consistency WHERE (images, first_subject) IN (FROM gone) OR (images, second_subject) IN (FROM gone);
DROP TABLE judge
"""
"""Deletes error consistencies with models that have lost a name or a cell of JUDGES: `analyze` computes them anew."""


def delete_study(store: Store, word: str, dry_run: bool = False) -> Deletion:
    """Delete a version, name@version, or all versions of a name, in one transaction.

    Cells that others use stay. A `dry_run` changes nothing. Raises UnknownName where there is no such study.
    """
    versions = store.frame("SELECT study_id, study, label FROM study_version ORDER BY study_id")
    deleted = versions.filter((pl.col("label") == word) | (pl.col("study") == word))
    if deleted.is_empty():
        raise UnknownName("study", word, dict.fromkeys([*versions["study"], *versions["label"]]))
    studies = deleted["study_id"].to_list()
    unused = store.frame(UNUSED, [studies, studies])["cell"].to_list()
    cells = store.frame("SELECT count(DISTINCT cell) FROM study_cell WHERE list_contains(?, study)", [studies]).item()
    predictions = store.frame("SELECT sum(count) FROM part WHERE list_contains(?, cell)", [unused]).item()
    if not dry_run:
        compared = [cell for cell in store.cells_judged_by(unused) if cell not in set(unused)]
        with store.transaction():
            store.execute(JUDGES)
            for table in tables_with("study"):
                store.execute(f"DELETE FROM {table} WHERE list_contains(?, study)", [studies])
            store.execute("DELETE FROM study WHERE list_contains(?, id)", [studies])
            for table in tables_with("cell"):
                store.execute(f"DELETE FROM {table} WHERE list_contains(?, cell)", [unused])
            store.execute("DELETE FROM cell WHERE list_contains(?, id)", [unused])
            # Rows that no cell needs any more go, too.
            for table in {*tables_with("image_set")} - {"cell"}:
                store.execute(f"DELETE FROM {table} WHERE image_set NOT IN (SELECT image_set FROM cell)")
            for table in ("checkpoint", "condition", "image_set"):
                store.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT {table} FROM cell)")
            store.execute("DELETE FROM session WHERE id NOT IN (SELECT session FROM part)")
            store.execute(UNJUDGED)
            store.renew_intervals(compared)
        store.checkpoint()
    return Deletion(deleted["label"].to_list(), len(unused), int(predictions or 0), cells - len(unused))


def free_bytes(store: Store) -> int:
    """Bytes of the file that hold nothing, since what they held was deleted; a merge of it alone leaves them out."""
    return int(store.frame("SELECT free_blocks * block_size FROM pragma_database_size()").item())
