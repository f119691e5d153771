"""The results database keeps what is committed and nothing else, and refuses every file that cannot be used."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from made_up_results import SESSION, cell, condition, image_set, model, part, store_study, variant

from bandlens.analysis.database.catalogue import SCHEMA_VERSION
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.predictions import read_decisions
from bandlens.core.errors import BandlensError, StoreError, UsageError
from bandlens.core.records import UNKNOWN_RANK, Facts, Failed
from bandlens.probes.attacks import ATTACKS
from bandlens.probes.grid import PROBES, make_grid


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.duckdb"


# The schema explains itself


@pytest.mark.usefixtures("made_databases")
def test_every_table_view_and_macro_of_a_new_database_is_explained(path: Path) -> None:
    query = (
        "SELECT table_name AS what FROM duckdb_tables() WHERE comment IS NULL "
        "UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL "
        "UNION ALL SELECT function_name FROM duckdb_functions() WHERE NOT internal AND comment IS NULL"
    )
    with open_store(path) as store:
        assert store.frame(query)["what"].to_list() == []


# Commit and resume


def test_a_cell_is_seen_once_its_parts_cover_the_images(store: Store) -> None:
    images = image_set(5, labels=[0] * 5)
    clean_cell = cell(images)
    assert store.progress([clean_cell]) == {}, "nobody asked for it before"
    store.begin_study("s", "", [clean_cell], [images])
    assert store.progress([clean_cell]) == {clean_cell.key: 0}
    store.commit([part(clean_cell, [0, 1], [0, 1])], {clean_cell.variant: SESSION})
    assert store.progress([clean_cell]) == {clean_cell.key: 2}
    assert store.frame("FROM accuracy").is_empty()
    store.commit([part(clean_cell, [0, 0, 2], [0, 0, 7], first=2)], {clean_cell.variant: SESSION})
    assert store.progress([clean_cell]) == {clean_cell.key: 5}
    assert store.frame("SELECT n, top1, top5 FROM accuracy").rows() == [(5, 0.6, 0.8)]
    assert store.frame("SELECT image_index, predicted, label_rank FROM prediction ORDER BY ALL").rows() == [
        (0, 0, 0), (1, 1, 1), (2, 0, 0), (3, 0, 0), (4, 2, 7)
    ]  # fmt: skip


def test_the_rank_of_the_best_of_several_right_classes_is_kept(store: Store) -> None:
    images = image_set(3, labels=[0, 1, 2], schemes={"real": [[0, 4], [], [5]]})
    clean, blurred = (part(cell(images, setting), [4, 1, 0], [2, 0, 1]) for setting in (condition(), condition("grey")))
    ranks = np.array([0, UNKNOWN_RANK, 3], np.uint16)
    clean = replace(clean, predictions=replace(clean.predictions, best_rank=ranks))
    store_study(store, "s", images, [clean])
    store_study(store, "t", images, [blurred])
    first, second = store.frame("SELECT cell FROM prediction GROUP BY cell ORDER BY cell")["cell"]
    assert store.frame("SELECT best_rank FROM prediction WHERE cell = ? ORDER BY image_index", [first]).rows() == [
        (0,), (65535,), (3,)
    ]  # fmt: skip
    stored_ranks, no_ranks = (read_decisions(store, [number])[0].best_rank for number in (first, second))
    assert stored_ranks is not None
    assert stored_ranks.tolist() == ranks.tolist()
    assert no_ranks is None


def test_one_transaction_commits_a_part_and_that_its_top5_is_not_known(store: Store) -> None:
    """A process that is killed after any transaction leaves no top-1 that reads as top-5."""
    images = image_set(4, labels=[1, 2, 3, 4])
    committed: list[object] = []
    parts = [part(cell(images), [1, 9], [0, 65535]), part(cell(images), [3, 4], [0, 0], first=2)]
    store.begin_study("s", "", [cell(images)], [images])
    store.after_commit = lambda: committed.append(store.frame("SELECT right1, right5 FROM part ORDER BY first").rows())
    store.commit(parts, {parts[0].cell.variant: SESSION})
    assert committed == [[(1, None), (2, 2)]]


def test_a_commit_is_all_or_nothing(store: Store) -> None:
    images = image_set(2)
    planned_cell, stray_cell = cell(images), cell(images, condition("lowpass", cutoff=0.5))
    store.begin_study("s", "", [planned_cell], [images])
    with pytest.raises(KeyError):
        store.commit([part(planned_cell, [1, 2]), part(stray_cell, [1, 2])], {planned_cell.variant: SESSION})
    for table in ("prediction", "part", "session"):
        assert store.frame(f"FROM {table}").is_empty(), table
    store.commit([part(planned_cell, [1, 2])], {planned_cell.variant: SESSION})
    assert store.progress([planned_cell]) == {planned_cell.key: 2}, "and the database goes on working"
    assert len(store.frame("FROM part JOIN session ON session.id = part.session")) == 1


def test_a_failure_leaves_what_was_stored_of_its_cell_and_the_next_try_goes_on_from_there(store: Store) -> None:
    images = image_set(4)
    cell_a, cell_b = cell(images), cell(images, condition("lowpass", cutoff=0.5))
    sessions = {cell_a.variant: SESSION}
    store.begin_study("s", "", [cell_a, cell_b], [images])
    store.commit([part(cell_a, [1, 2]), part(cell_b, [1, 2])], sessions)
    store.commit([part(cell_a, [3, 4], first=2), Failed(cell_b, "logits are not finite at image 3")], sessions)
    assert store.progress([cell_a, cell_b]) == {cell_a.key: 4, cell_b.key: 2}
    assert store.frame("SELECT error FROM cell WHERE NOT complete").rows() == [("logits are not finite at image 3",)]
    store.commit([part(cell_b, [3, 4], first=2)], sessions)
    assert store.frame("SELECT complete, error FROM cell").rows() == [(True, None), (True, None)]


def test_a_part_names_the_session_that_ran_it(store: Store) -> None:
    images = image_set(5)
    clean_cell = cell(images)
    store.begin_study("s", "", [clean_cell], [images])
    for first, count, batch in ((0, 2, 8), (2, 1, 16), (3, 2, 16)):
        store.commit([part(clean_cell, [1] * count, first=first)], {clean_cell.variant: replace(SESSION, batch=batch)})
    sessions = store.frame('SELECT batch, "first" FROM part JOIN session ON session.id = part.session ORDER BY ALL')
    assert sessions.rows() == [(8, 0), (16, 2), (16, 3)]
    assert len(store.frame("FROM session")) == 2
    assert store.rates([clean_cell.variant, variant(model("another"))]) == {clean_cell.variant: 6.0}, (
        "of the session that ran most: 3 images in 0.5 s"
    )


# Studies


def test_a_study_has_a_version_for_each_list_of_cells(store: Store) -> None:
    images = image_set(2)
    cells = [cell(images), cell(images, condition("lowpass", cutoff=0.5))]
    assert store.begin_study("s", "first", cells, [images]) == "s@1"
    assert store.begin_study("s", "second", cells[::-1], [images]) == "s@1"
    assert store.frame("SELECT toml FROM study").rows() == [("second",)]
    assert store.begin_study("s", "third", cells[:1], [images]) == "s@2"
    assert store.begin_study("other", "fourth", cells[:1], [images]) == "other@1"
    assert store.begin_study("s", "fifth", cells, [images]) == "s@3"
    assert len(store.frame("FROM cell")) == 2, "cells are shared"
    assert store.stale("s", cells[:1]) == [("net", "set", "lowpass")]
    assert store.stale("s", cells) == []
    assert store.stale("unheard of", cells) == []


def test_other_names_for_the_same_cells_are_another_version(store: Store) -> None:
    images_a, images_b = image_set(2, name="before"), image_set(2, name="after")
    store_study(store, "s", images_a, [part(cell(images_a), [1, 2])])
    first = store.frame("FROM accuracy_of('s@1')").rows()
    assert store.begin_study("s", "", [cell(images_a)], [images_a]) == "s@1"
    assert store.begin_study("s", "", [cell(images_b)], [images_b]) == "s@2"
    assert store.begin_study("s", "", [cell(images_b, by=model(category="moved"))], [images_b]) == "s@3"
    assert store.frame("FROM accuracy_of('s@1')").rows() == first
    assert store.frame("SELECT image_set, category FROM accuracy").rows() == [("after", "moved")]
    assert len(store.frame("FROM cell")) == 1


def test_one_image_set_has_one_name_within_a_study(store: Store) -> None:
    sets = [image_set(2, name=name) for name in ("one", "two")]
    with pytest.raises(UsageError, match="image sets one and two are the same; leave one of them out"):
        store.begin_study("s", "", [cell(images) for images in sets], sets)
    assert store.frame("FROM study").is_empty()


def test_parameters_of_any_probe_can_be_kept(store: Store) -> None:
    images = image_set(1)
    conditions = [
        condition("critical_band", noise_sd=0.02, frequency=3, draw="shared"),
        condition("mine", frequency=2.5, cutoff=1e6, word="it's"),
        condition("mine", frequency=1e30, cutoff=-1.0, word=""),
        condition("mine", frequency="low"),
    ]
    store.begin_study("s", "", [cell(images, setting) for setting in conditions], [images])
    rows = store.frame("SELECT frequency, cutoff, noise_sd, parameters->>'word' FROM condition ORDER BY id").rows()
    assert rows == [(3, None, 0.02, None), (None, 1e6, None, "it's"), (None, -1.0, None, ""), (None, None, None, None)]


def test_a_condition_keeps_the_facts_of_its_family(store: Store) -> None:
    images = image_set(1)
    parameters = {
        "fourier": {"row": [0, 3], "column": [-5, 0]},
        "power_law_noise": {"exponent": 1, "noise_sd": [0.1, 0.2]},
        "bilateral": {"d": [4, 9], "sigma_color": 50},
        "bandpass": {"edges": [3, 9]},
        "bandstop": {"edges": [3, 9]},
    }
    grid = make_grid({name: parameters.get(name, {}) for name in PROBES}, Path())
    conditions = [*grid.conditions, *grid.attacks]
    store.begin_study("s", "", [cell(images, setting) for setting in conditions], [images])
    names = [field.name for field in fields(Facts)]
    rows = store.frame(f"SELECT digest, {', '.join(names)} FROM condition").rows()
    assert {digest: Facts(*row) for digest, *row in rows} == {setting.digest: setting.facts for setting in conditions}
    assert set(store.frame("SELECT probe FROM condition WHERE attack")["probe"]) == set(ATTACKS)


def test_another_axis_of_a_known_condition_is_kept(store: Store) -> None:
    images, original = image_set(1), condition("mine", sigma=2, share=0.5)
    other_axis = replace(original, facts=replace(original.facts, x=2.0, x_title="sigma", series="share=0.5"))
    for setting in (original, other_axis, other_axis):
        store.begin_study("s", "", [cell(images, setting)], [images])
        row = store.frame("SELECT x, x_title, series FROM condition").row(0)
        assert row == (setting.facts.x, setting.facts.x_title, setting.facts.series)
    assert store.frame("FROM study")["version"].to_list() == [1], "neither numbers nor names changed"


# Files that cannot be used


def refusal(path: Path, read_only: bool = False, name: Path | None = None) -> str:
    with pytest.raises(BandlensError) as raised, open_store(path, read_only):
        pass
    assert "\n" not in str(raised.value)
    assert str(name or path) in str(raised.value)
    return f"{type(raised.value).__name__}: {raised.value}"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [b"", b"text " * 1000, b"SQLite format 3\0"], ids=["empty", "text", "sqlite"])
def test_a_file_that_is_no_database_is_refused_and_kept(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    assert "is not a DuckDB database; name another file" in refusal(path, read_only)
    assert path.read_bytes() == content
    study = path.rename(path.with_suffix(".toml"))
    assert f"UsageError: {study} is a study file, no results database; name" in refusal(study, read_only)


@pytest.mark.parametrize("read_only", [False, True])
def test_the_schema_version_of_another_release_is_named(path: Path, read_only: bool) -> None:
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE meta AS SELECT 2 AS schema_version, '0.1.0' AS bandlens, now() AS created")
        connection.execute("CREATE TABLE study (id INTEGER PRIMARY KEY, name VARCHAR, version INTEGER)")
    message = refusal(path, read_only)
    assert f"schema version 2 (written by bandlens 0.1.0), and this is version {SCHEMA_VERSION}; " in message
    assert "run the study again with a new --db" in message


def test_places_without_a_database_are_refused(path: Path) -> None:
    assert refusal(path, read_only=True).startswith("UsageError: no results database at")
    assert not path.exists()
    (inside := path.parent / "look" / path.name).parent.mkdir()
    inside.touch()
    assert f"; did you mean {inside}?; " in refusal(path, read_only=True)
    near = path.with_name(f"my_{path.name}")
    near.touch()
    assert f"; did you mean {near}?; " in refusal(path, read_only=True)
    orphan = path.with_name("nowhere") / "results.duckdb"
    assert f"no folder {orphan.parent} for the results database; make it first" in refusal(orphan, name=orphan.parent)
    path.mkdir()
    assert "is a folder; name the file of a database" in refusal(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_duckdb_file_of_somebody_else_is_refused_and_kept(path: Path, read_only: bool) -> None:
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    assert "is not a results database; name another file" in refusal(path, read_only)
    with duckdb.connect(path) as connection:
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("t",)]


def test_the_log_of_a_database_that_is_gone_is_named(path: Path) -> None:
    log = path.with_name(f"{path.name}.wal")
    log.write_bytes(b"what a killed run left")
    assert f"{log} belongs to a database that is gone" in refusal(path)
    assert log.read_bytes() == b"what a killed run left"
    assert not path.exists()


@pytest.mark.parametrize("name", ["results.duckdb.wal", "results.duckdb.tmp", "results.duckdb.checkpoint.wal"])
@pytest.mark.parametrize("is_new", [False, True])
def test_open_store_refuses_a_link_beside_the_database(tmp_path: Path, name: str, is_new: bool) -> None:
    database, victim = tmp_path / "results.duckdb", tmp_path / "elsewhere" / "notes.txt"
    victim.parent.mkdir()
    victim.write_text("mine")
    if not is_new:
        with open_store(database):
            pass
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(StoreError, match="is a link") as caught, open_store(database) as store:
        store.execute("CHECKPOINT")
    assert name in str(caught.value)
    assert victim.read_text() == "mine"


def test_open_store_refuses_a_hard_link_and_a_pipe_in_place_of_the_log(tmp_path: Path) -> None:
    database, log, victim = (tmp_path / name for name in ("results.duckdb", "results.duckdb.wal", "notes.txt"))
    with open_store(database):
        pass
    victim.write_text("mine")
    log.hardlink_to(victim)
    assert "is a link" in refusal(database)
    log.unlink()
    os.mkfifo(log)
    assert "no ordinary file" in refusal(database)
    assert victim.read_text() == "mine"


def test_large_transactions_leave_few_free_blocks(tmp_path: Path) -> None:
    """130,000 rows are a full row group of DuckDB and a small one, which its checkpoint would rewrite together."""
    path, images, random = tmp_path / "results.duckdb", image_set(26_000), np.random.default_rng(0)
    with open_store(path) as store:
        for seed in range(3):
            cells = [replace(cell(images), seed=10 * seed + k) for k in range(5)]
            store_study(store, f"s{seed}", images, [part(c, random.integers(0, 1000, 26_000)) for c in cells])
    with duckdb.connect(path, read_only=True) as connection:
        [(free, total)] = connection.execute("SELECT free_blocks, total_blocks FROM pragma_database_size()").fetchall()
    assert free <= max(2, 0.02 * total)


# Messages of DuckDB


def test_a_name_in_place_of_a_class_is_one_line(store: Store) -> None:
    with pytest.raises(StoreError, match="classes are numbers; the view shown_class has the number of each name"):
        store.frame("SELECT 'cat'::USMALLINT")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT 1 AS a, 2 AS a, 3 AS a_1, interval 1 day AS a", ["a", "a_1", "a_1_1", "a_2"]),
        ('SELECT * FROM (SELECT 4 AS "the ""n") AS a, (SELECT 5 AS "the ""n") AS b', ['the "n', 'the "n_1']),
    ],
)
def test_columns_of_one_name_are_numbered(store: Store, query: str, names: list[str]) -> None:
    """Tables can have a name but once; a join with * gives it twice."""
    with store.reader(query) as reader:
        table = reader.read_all()
    assert table.column_names == names
    assert store.frame("SELECT 1 AS a, 2 AS A, 3 AS a_1").columns == ["a", "A_1", "a_1_1"]
    assert len(pl.DataFrame(table)) == 1
