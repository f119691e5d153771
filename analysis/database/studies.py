"""The studies of a database: which version a word asks for, what each holds, other names, and their end.

A word is a name, name@version, `*`, or nothing. SQL has it as `version_of`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ...errors import UnknownName, UsageError
from .store import Store


def study_versions(store: Store, wanted: str) -> pl.DataFrame:
    """study_id and label (name@version) of the versions that `wanted` asks for, the oldest study first.

    Args:
        wanted: a name stands for its newest version, a label for itself, `*` for the newest version of every study.

    Raises UnknownName where there is no such study. `*` has no rows in a database without studies.
    """
    known = store.frame("SELECT study, label FROM study_version ORDER BY study_id")
    if wanted != "*" and wanted not in known["label"] and wanted not in known["study"]:
        raise UnknownName("study", wanted, dict.fromkeys([*known["study"], *known["label"]]))
    return store.frame("SELECT study_id, label FROM version_of(?) ORDER BY study_id", [wanted])


def study_label(store: Store, wanted: str | None) -> str:
    """The label of the one version that `wanted` asks for; None and `*` ask for the only study there is.

    Raises UnknownName where there is no such study, UsageError where there is none at all, or several to choose from.
    """
    found = study_versions(store, "*" if wanted is None else wanted)["label"].to_list()
    if not found:
        raise UsageError(f"{store.path} holds no study; `bandlens run STUDY.toml --db {store.path}` adds one")
    if len(found) > 1:
        names = ", ".join(label.rpartition("@")[0] for label in found)
        raise UsageError(f"{store.path} holds the studies {names}; name one of them with --study")
    return str(found[0])


def version_in(store: Store, wanted: str | None, precision: str) -> str:
    """The label of the newest version that was run in a precision, of those that `wanted` stands for.

    Args:
        wanted: a name stands for all its versions, a label for itself, None for the only study there is.
        precision: such as fp32.

    Raises UnknownName and UsageError as `study_label`, and UsageError where none was run in it.
    """
    label = study_label(store, wanted)
    asked = label if wanted == label else label.rpartition("@")[0]
    found = store.frame(
        "SELECT DISTINCT study_id, label, precision FROM study_version JOIN study_cell ON study_cell.study = study_id "
        "JOIN cell ON cell.id = study_cell.cell JOIN condition ON condition.id = cell.condition "
        "WHERE ? IN (label, study_version.study) AND probe = 'clean' ORDER BY study_id",  # attacks are always in fp32
        [asked],
    )
    labels = found.filter(precision=precision)["label"]
    if labels.is_empty():
        known = ", ".join(found["precision"].unique().sort())
        raise UsageError(
            f"{store.path}: {asked} was run in {known}, and not in {precision}; "
            "set that precision in its file and run it"
        )
    return str(labels[-1])


def last_run(store: Store) -> str | None:
    """The label of the version that ran last, or None in a database without studies."""
    found = store.frame(
        "SELECT label FROM study_version JOIN study ON study.id = study_id ORDER BY last_run DESC, id DESC LIMIT 1"
    )
    return None if found.is_empty() else str(found.item())


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
    known = store.frame("SELECT DISTINCT name FROM study ORDER BY name")["name"]
    if name not in known:
        raise UnknownName("study", name, known)
    if to in known:
        raise UsageError(f"{store.path} has a study {to}; give another name, or delete that one first")
    versions = int(store.frame("SELECT count(*) FROM study WHERE name = ?", [name]).item())
    with store.transaction():
        store.execute("UPDATE study SET name = ? WHERE name = ?", [to, name])
        store.execute(UNJUDGED)
    return versions


@dataclass(frozen=True, slots=True)
class Deletion:
    """What went, or would go, with some versions of a study."""

    labels: list[str]
    cells: int
    """Cells that nothing else uses."""
    predictions: int
    kept: int
    """Cells of theirs that other versions and studies use, or a precision gate has compared."""


UNUSED = """
SELECT DISTINCT cell FROM study_cell WHERE list_contains(?, study)
AND cell NOT IN (SELECT cell FROM study_cell WHERE NOT list_contains(?, study))
AND cell NOT IN (SELECT reference FROM precision_gate UNION ALL SELECT candidate FROM precision_gate)
"""
OF_STUDY = ("study_cell", "study_checkpoint", "study_image_set", "measure_value", "own_measure")
OF_CELL = ("prediction", "part")
ORPHANS = {
    "checkpoint": "id NOT IN (SELECT checkpoint FROM cell)",
    "condition": "id NOT IN (SELECT condition FROM cell)",
    "image_set": "id NOT IN (SELECT image_set FROM cell)",
    "image": "image_set NOT IN (SELECT image_set FROM cell)",
    "label": "image_set NOT IN (SELECT image_set FROM cell)",
    "own_class_name": "image_set NOT IN (SELECT image_set FROM cell)",
    "session": "id NOT IN (SELECT session FROM part)",
}
"""What stands in the database for the sake of cells, and which rows no cell needs."""
UNJUDGED = """
WITH judged AS MATERIALIZED (SELECT DISTINCT images, subject FROM judgement)
DELETE FROM error_consistency
WHERE (images, first_subject) NOT IN (FROM judged) OR (images, second_subject) NOT IN (FROM judged)
"""
"""Error consistencies of who judges these images no more, or under another name: `analyze` computes them anew."""


def delete_study(store: Store, wanted: str, only_tell: bool = False) -> Deletion:
    """Delete a version, name@version, or all versions of a name, in one transaction.

    Cells that others use stay. With `only_tell` nothing is changed. Raises UnknownName where there is no such study.
    """
    known = store.frame("SELECT study_id, study, label FROM study_version ORDER BY study_id")
    chosen = known.filter((pl.col("label") == wanted) | (pl.col("study") == wanted))
    if chosen.is_empty():
        raise UnknownName("study", wanted, dict.fromkeys([*known["study"], *known["label"]]))
    studies = chosen["study_id"].to_list()
    unused = store.frame(UNUSED, [studies, studies])["cell"].to_list()
    held = store.frame("SELECT count(DISTINCT cell) FROM study_cell WHERE list_contains(?, study)", [studies]).item()
    lost = store.frame("SELECT coalesce(sum(count), 0)::BIGINT FROM part WHERE list_contains(?, cell)", [unused]).item()
    if not only_tell:
        with store.transaction():
            for table in OF_STUDY:
                store.execute(f"DELETE FROM {table} WHERE list_contains(?, study)", [studies])
            store.execute("DELETE FROM study WHERE list_contains(?, id)", [studies])
            for table in OF_CELL:
                store.execute(f"DELETE FROM {table} WHERE list_contains(?, cell)", [unused])
            store.execute("DELETE FROM cell WHERE list_contains(?, id)", [unused])
            for table, orphaned in ORPHANS.items():
                store.execute(f"DELETE FROM {table} WHERE {orphaned}")
            store.execute(UNJUDGED)
        store.execute("CHECKPOINT")
    return Deletion(chosen["label"].to_list(), len(unused), int(lost), held - len(unused))


def free_bytes(store: Store) -> int:
    """Bytes of the file that hold nothing, since what they held was deleted; `vacuum` gives them back."""
    return int(store.frame("SELECT free_blocks * block_size FROM pragma_database_size()").item())
