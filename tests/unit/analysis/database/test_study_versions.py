"""A word asks for a version of a study, or for several."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_up_results import cell, condition, image_set, model, part, store_study

from bandlens.analysis.database.catalogue import schema, tables_with
from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.database.study_versions import (
    delete_study,
    last_run,
    list_studies,
    rename_study,
    study_label,
    study_versions,
)
from bandlens.analysis.metrics.families.error_consistency import write_consistencies
from bandlens.core.errors import UnknownName, UsageError
from bandlens.core.records import Finished

IMAGES = image_set(2)


def begin(store: Store, name: str, *cutoffs: float) -> None:
    cells = [cell(IMAGES, condition("lowpass", cutoff=cutoff)) for cutoff in cutoffs]
    store.begin_study(name, "", cells, [IMAGES])


@pytest.fixture
def several(store: Store) -> Store:
    for name, cutoff in (("mine", 0.1), ("mine", 0.2), ("theirs", 0.1)):
        begin(store, name, cutoff)
    return store


def test_a_word_asks_for_versions(several: Store) -> None:
    for word, labels in {"mine": ["mine@2"], "mine@1": ["mine@1"], "*": ["mine@2", "theirs@1"]}.items():
        assert study_versions(several, word)["label"].to_list() == labels
        assert several.frame("SELECT label FROM version_of(?) ORDER BY study_id", [word])["label"].to_list() == labels
    delete_study(several, "theirs")
    assert [study_label(several, word) for word in (None, "*", "mine", "mine@1")] == [*["mine@2"] * 3, "mine@1"]


def test_what_there_is_not_is_told_with_names_that_are_near(several: Store) -> None:
    for look_up in (study_label, study_versions):
        with pytest.raises(UnknownName, match="unknown study 'mine@3'; did you mean mine@2 or mine@1"):
            look_up(several, "mine@3")
        with pytest.raises(UnknownName, match="unknown study 'x'; known: mine, theirs, mine@1, mine@2, theirs@1"):
            look_up(several, "x")
    with pytest.raises(UsageError, match="holds the studies mine, theirs; name one of them with --study"):
        study_label(several, None)


def test_a_database_without_studies(store: Store) -> None:
    assert study_versions(store, "*").is_empty()
    assert last_run(store) is None
    with pytest.raises(UsageError, match=r"holds no study; `bandlens run STUDY.toml --db .*` adds one"):
        study_label(store, None)
    with pytest.raises(UnknownName, match="unknown study 'mine'"):
        study_label(store, "mine")


def test_the_last_run_is_that_of_any_version(several: Store) -> None:
    assert last_run(several) == "theirs@1"
    begin(several, "mine", 0.2)
    assert last_run(several) == "mine@2"


# Other names, and their end

CLEAN = part(cell(IMAGES), [0, 1])
OTHER_IMAGES = image_set(3, name="others")


def low(cutoff: float) -> Finished:
    return part(cell(IMAGES, condition("lowpass", cutoff=cutoff)), [1, 1])


@pytest.fixture
def studies(store: Store) -> Store:
    """mine@1 and mine@2 share the clean cell with theirs@1, and 0.2 with each other; alone has a model of its own."""
    store_study(store, "mine", IMAGES, [CLEAN, low(0.1), low(0.2)])
    store_study(store, "mine", IMAGES, [CLEAN, low(0.2), low(0.4)])
    store_study(store, "theirs", IMAGES, [CLEAN, low(0.3)])
    store_study(store, "alone", OTHER_IMAGES, [part(cell(OTHER_IMAGES, by=model("another")), [0, 0, 0])])
    return store


def test_what_studies_there_are(studies: Store) -> None:
    rows = list_studies(studies).select("study", "cells", "complete", "own").rows()
    assert rows == [("alone@1", 1, 1, 1), ("mine@1", 3, 3, 1), ("mine@2", 3, 3, 1), ("theirs@1", 2, 2, 1)]


@pytest.mark.parametrize(
    ("name", "labels", "cells", "survivors"),
    [
        ("mine@1", ["mine@1"], 1, ["alone@1", "mine@2", "theirs@1"]),
        ("mine", ["mine@1", "mine@2"], 3, ["alone@1", "theirs@1"]),
    ],
)
def test_a_deleted_study_leaves_what_others_use(
    studies: Store, name: str, labels: list[str], cells: int, survivors: list[str]
) -> None:
    count = studies.frame("SELECT count(*) FROM prediction").item()
    accuracies = {study: studies.frame(f"FROM accuracy_of('{study}') ORDER BY ALL") for study in survivors}
    deletion = delete_study(studies, name, dry_run=True)
    assert studies.frame("SELECT count(*) FROM prediction").item() == count
    assert delete_study(studies, name) == deletion
    assert (deletion.labels, deletion.cells, deletion.predictions) == (labels, cells, 2 * cells)
    assert studies.frame("SELECT count(*) FROM prediction").item() == count - deletion.predictions
    assert list_studies(studies)["study"].to_list() == survivors
    for study, rows in accuracies.items():
        assert studies.frame(f"FROM accuracy_of('{study}') ORDER BY ALL").equals(rows)
    assert not any(check.problems for check in check_database(studies))
    with pytest.raises(UnknownName, match="unknown study 'mine@1'"):
        delete_study(studies, "mine@1")


def test_checks_of_a_database_keep_to_a_quarter_of_the_memory(tmp_path: Path) -> None:
    """They read every prediction, and DuckDB keeps what it has read for as long as there is room."""
    query = "SELECT current_setting('memory_limit')"
    with open_store(tmp_path / "results.duckdb") as store:
        assert store.frame(query).item() == "1.8 GiB"
        check_database(store)
        assert store.frame(query).item() == "488.2 MiB"


def test_with_the_last_study_of_them_models_and_images_go(studies: Store) -> None:
    delete_study(studies, "alone")
    assert studies.frame("SELECT name FROM checkpoint")["name"].to_list() == ["net"]
    assert studies.frame("SELECT name FROM image_set")["name"].to_list() == ["set"]
    assert studies.frame("SELECT count(*) FROM image").item() == 2
    for name in ("mine", "theirs"):
        delete_study(studies, name)
    tables = ("study", "study_cell", "study_checkpoint", "study_image_set", "cell", "part", "prediction", "checkpoint")
    for table in (*tables, "condition", "image_set", "image", "session"):
        assert studies.frame(f"SELECT count(*) FROM {table}").item() == 0, table


def test_every_table_that_names_a_study_a_cell_or_images_is_cleared(store: Store) -> None:
    query = (
        "SELECT table_name FROM duckdb_columns() SEMI JOIN (SELECT table_name FROM duckdb_tables() WHERE NOT internal) "
        "USING (table_name) WHERE column_name = ? AND data_type = 'INTEGER'"
    )
    for column in ("study", "cell", "image_set"):
        assert set(store.frame(query, [column])["table_name"]) == set(tables_with(column)) != set()


def test_error_consistencies_are_those_of_models_that_are_there(store: Store) -> None:
    images = image_set(2, labels=[0, 0])
    parts = {c: part(cell(images, by=model(c[0], content=c)), [0, 1], [0, 1]) for c in ("x", "y", "z", "x2", "y2")}
    store_study(store, "mine", images, [parts["x"], parts["y"]])
    store_study(store, "theirs", images, [parts["x2"], parts["z"]])
    store_study(store, "theirs", images, [parts["x"], parts["z"]])
    store_study(store, "again", images, [parts["y2"]])
    write_consistencies(store, ["set"])
    query = "SELECT first_subject, second_subject FROM error_consistency ORDER BY ALL"
    assert len(store.frame(query)) == 6
    rename_study(store, "again", "renamed")
    assert store.frame(query).rows() == [("x", "y (mine@1)"), ("x", "z"), ("y (mine@1)", "z")]
    delete_study(store, "mine")  # x stays: theirs has it too
    assert store.frame(query).rows() == [("x", "z")]
    delete_study(store, "theirs@2")  # x is now the network of the version before
    assert store.frame(query).is_empty()


def test_cells_of_a_gate_stay(studies: Store) -> None:
    (gated,) = studies.frame("SELECT cell FROM study_detail_of('alone')")["cell"]
    studies.execute(
        "INSERT INTO precision_gate (reference, candidate, checkpoint, category, image_set, n, flips, flips_low, "
        "flips_high, verdict, max_flips, max_difference) VALUES (?, ?, 'net', 'own', 'set', 3, 0, 0, 0, 'pass', 1, 1)",
        [gated, gated],
    )
    deletion = delete_study(studies, "alone")
    assert (deletion.cells, deletion.remaining_cells) == (0, 1)
    assert studies.frame("SELECT count(*) FROM prediction WHERE cell = ?", [gated]).item() == 3


def test_a_study_is_renamed_with_all_its_versions(studies: Store) -> None:
    query = "FROM accuracy_of(?) SELECT * EXCLUDE (study, version) ORDER BY ALL"
    accuracies = studies.frame(query, ["mine"])
    assert rename_study(studies, "mine", "ours") == 2
    assert studies.frame(query, ["ours"]).equals(accuracies)
    assert study_versions(studies, "ours@1")["label"].to_list() == ["ours@1"]
    with pytest.raises(UnknownName, match="unknown study 'mine'"):
        rename_study(studies, "mine", "x")
    with pytest.raises(UsageError, match="has a study theirs; give another name"):
        rename_study(studies, "ours", "theirs")


# The same in SQL

MACROS = re.findall(r"^CREATE MACRO (\w+_of)\(which\) AS TABLE", schema(), re.MULTILINE)


def test_sql_refuses_what_is_not_there_by_every_macro(store: Store) -> None:
    """No cell is complete here: joins that come to nothing hide no error."""
    with pytest.raises(UsageError, match="unknown study 'mine'; the database holds none"):
        store.frame("FROM accuracy_of('mine')")
    for name, cutoff in (("mine", 0.1), ("mine", 0.2), ("theirs", 0.1)):
        begin(store, name, cutoff)
    with pytest.raises(UsageError, match=r"^unknown study 'mime'; did you mean mine or mine@1 or mine@2\?$"):
        store.frame("FROM accuracy_of('mime')")
    for macro in MACROS:
        with pytest.raises(UsageError, match=r"^unknown study 'q'; known: mine, mine@1, mine@2, theirs, theirs@1$"):
            store.frame(f"SELECT count(*) FROM {macro}(?)", ["q"])
        query = f"FROM {macro}('mine') UNION ALL FROM {macro}('mine@1')"
        assert store.frame(query).height == 2 * (macro == "version_of"), macro
