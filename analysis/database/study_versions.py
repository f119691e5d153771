"""Look up, list, rename and delete studies and their versions.

Commands select versions with a selector: a study name, a label name@version, `*` for all studies, or None. The SQL
macro `version_of` resolves selectors in queries.
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
"""SQL sort order of conditions: clean first, then by probe and its parameters.

It uses only columns that all views of conditions contain.
"""
FACTS = ("setting", "series", "x", "x_title", "y", "y_title", "mirrored", "cuts", "place")


def study_versions(store: Store, word: str) -> pl.DataFrame:
    """Return the versions that a selector refers to, oldest study first.

    Args:
        store: The open database.
        word: A study name selects its newest version, a label name@version selects that version, and `*` selects the
            newest version of every study.

    Returns:
        Rows with the columns study_id and label. For `*` in a database without studies, there are no rows.

    Raises:
        UnknownName: No study matches the selector.
    """
    query = "SELECT *, asks_for(?, study, label, newest) AS asked FROM study_version ORDER BY study_id"
    versions = store.frame(query, [word])
    if word != "*" and word not in versions["label"] and word not in versions["study"]:
        hint = f"`bandlens studies list --db {quoted(store.path)}` lists all"
        raise UnknownName("study", word, dict.fromkeys([*versions["study"], *versions["label"]]), hint)
    return versions.filter("asked").select("study_id", "label")


def study_label(store: Store, word: str | None) -> str:
    """Return the label of the only version that a selector refers to.

    Args:
        store: The open database.
        word: A study name or label. None and `*` select the only study in the database.

    Raises:
        UnknownName: No study matches the selector.
        UsageError: The database has no study, or several studies match.
    """
    labels = study_versions(store, "*" if word is None else word)["label"].to_list()
    if not labels:
        raise UsageError(f"{store.path} holds no study; `bandlens run STUDY.toml --db {quoted(store.path)}` adds one")
    if len(labels) > 1:
        names = ", ".join(label.rpartition("@")[0] for label in labels)
        raise UsageError(f"{store.path} holds the studies {names}; name one of them with --study")
    return str(labels[0])


def earlier_label(store: Store, word: str | None, name: str) -> str:
    """Return the label of the version that a study is compared with.

    Args:
        store: The database with the baseline.
        word: Selector of the baseline. None selects the study with the same name, or, if there is none, the version
            that ran last.
        name: Name or label of the candidate study.

    Raises:
        UnknownName: No study matches the selector.
        UsageError: The database has no study.
    """
    if word is not None:
        return study_label(store, word)
    versions = store.frame("SELECT count(*) FROM study_version WHERE study = $1 OR label = $1", [name]).item()
    label = study_label(store, name) if versions else last_run(store)
    if label is None:
        raise UsageError(f"{store.path} holds no study to compare with; run one, or name another with --against")
    return label


def version_in(store: Store, word: str | None, precision: str) -> str:
    """Return the label of the newest version that was run at a precision.

    Args:
        store: The open database.
        word: A study name considers all its versions, a label name@version only that version. None considers the only
            study in the database.
        precision: Name of the precision, such as fp32.

    Raises:
        UnknownName: No study matches the selector.
        UsageError: No version was run at this precision, or no single study is selected.
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
    """Return the label of the version that ran last, or None if the database has no studies."""
    labels = store.frame(
        "SELECT label FROM study_version JOIN study ON study.id = study_id ORDER BY last_run DESC, id DESC LIMIT 1"
    )
    return None if labels.is_empty() else str(labels.item())


def read_conditions(store: Store, label: str) -> pl.DataFrame:
    """Return the conditions of a study version in the order of display.

    The clean condition comes first, followed by probes and series in the order of the study file, each sorted along its
    axes. Probes without axes, which select sets of octaves, are sorted by the number of octaves.

    Args:
        store: The open database.
        label: Label of the version.

    Returns:
        Rows of the table `condition` with the additional column `place`, the position in the order. If a probe has a
            condition at infinity, x and y are NULL for all its conditions, because a chart cannot show infinity.
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
            # In a merged database, ids of octave sets follow their text, not the number of octaves.
            pl.when(pl.col("x").is_null().all().over("probe")).then(pl.col("setting").str.count_matches(r"\d")),
            pl.col("id").min().over("probe", "series"),
            "y",
            "x",
            "id",
        )
        .with_row_index("place")
    )


def with_facts(rows: pl.DataFrame, conditions: pl.DataFrame) -> pl.DataFrame:
    """Add the descriptive columns of conditions (`FACTS`) to rows that have the columns probe and parameters.

    If the rows have the column cycles, the setting of filters and bands states their frequency in cycles/image.

    Args:
        rows: Rows with the columns probe and parameters.
        conditions: Conditions of the study; see `read_conditions`.
    """
    rows_with_facts = rows.join(
        conditions.select("probe", "parameters", *FACTS), on=["probe", "parameters"], how="left", maintain_order="left"
    )
    return rows_with_facts.with_columns(setting=frequency_settings()) if "cycles" in rows.columns else rows_with_facts


def frequency_settings() -> pl.Expr:
    """Return an expression for the column setting, with the frequency of filters and bands in cycles/image.

    It applies to rows with the columns setting, series, x_title and cycles.
    """
    place = pl.col("x_title").replace_strict({title: place for place, title in FREQUENCY_TITLES.items()}, default=None)
    facts = pl.struct("series", "cycles", place=place)
    # Half a million rows of a thousand models have only fifty distinct settings, so format each setting once.
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
    """Return one row per study version.

    The columns contain its label, the number of cells, the number of complete cells, and the number of cells that no
    other version uses (`own`).
    """
    return store.frame(STUDIES)


def rename_study(store: Store, name: str, to: str) -> int:
    """Rename all versions of a study, including in verdicts that refer to it as a baseline.

    Args:
        store: The open database.
        name: Current name.
        to: New name.

    Returns:
        The number of versions.

    Raises:
        UnknownName: There is no study of this name.
        UsageError: The new name is already in use.
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
    """Versions of a study that were deleted or, in a dry run, would be deleted, and their contents."""

    labels: list[str]
    cells: int
    """Number of cells that nothing else uses, and that are deleted with the versions."""
    predictions: int
    remaining_cells: int
    """Number of cells that remain, because other versions or a precision gate use them."""


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
"""Statements that delete error consistencies of models that lost a name or a cell since `JUDGES` was run.

`analyze` computes them again.
"""


def delete_study(store: Store, word: str, dry_run: bool = False) -> Deletion:
    """Delete one version (name@version) or all versions of a study, in one transaction.

    Cells that other versions or a precision gate use are not deleted.

    Args:
        store: The open database.
        word: Name of a study, or the label of one version.
        dry_run: Report what would be deleted, without changing anything.

    Raises:
        UnknownName: There is no such study or version.
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
        # Cells without labels are compared with clean cells. If a clean cell is deleted, their intervals change.
        compared = [cell for cell in store.cells_judged_by(unused) if cell not in set(unused)]
        with store.transaction():
            store.execute(JUDGES)
            for table in tables_with("study"):
                store.execute(f"DELETE FROM {table} WHERE list_contains(?, study)", [studies])
            store.execute("DELETE FROM study WHERE list_contains(?, id)", [studies])
            for table in tables_with("cell"):
                store.execute(f"DELETE FROM {table} WHERE list_contains(?, cell)", [unused])
            store.execute("DELETE FROM cell WHERE list_contains(?, id)", [unused])
            # Delete rows that no remaining cell refers to.
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
    """Return the size of the unused space in the file, in bytes.

    Deleted rows leave unused space behind. Merging the database alone writes a copy without it.
    """
    return int(store.frame("SELECT free_blocks * block_size FROM pragma_database_size()").item())
