"""Databases are merged: the same rows in any order and grouping, and no choice that nobody made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import SESSION, Images, cell, condition, database_of, image_set, model, part, store_study
from small import Command, ask, rows_of

from bandlens.analysis.comparison.gates import Limits
from bandlens.analysis.comparison.precision_gate import gate_precision
from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import GROUPS, IDENTITIES, merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.study_versions import delete_study, free_bytes
from bandlens.core.errors import StoreError, UsageError
from bandlens.core.records import Cell, Condition, Finished

TABLES = "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name"
NAMES = ("bands", "both", "broken_off", "gated")
FILTERS = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.3))]
BANDS = [condition(), *(condition("critical_band", noise_sd=0.1, frequency=f, draw="shared") for f in (1, 4))]
PHOTOGRAPHS = image_set(20, name="photographs", labels=np.arange(20) % 10, schemes={"real": [[0, 1], [], [2], [3]] * 5})
PAIRS = image_set(10, name="pairs", clusters=np.arange(10) // 2)
SITES = replace(
    image_set(3, name="sites", labels=[0, 1, 0]),
    class_names=["abbey", "arch"],
    attributes={("site", "A"): np.array([0, 2])},
)


def outcome(images: Images, cell: Cell, count: int | None = None) -> Finished:
    """Predictions of the first images, which depend on the cell alone."""
    predicted = np.random.default_rng(int(cell.key[:8], 16)).integers(0, 10, images.info.count)[:count]
    return part(cell, predicted, None if images.labels is None else (predicted != images.labels[:count]) * 2)


def cells_of(images: Images, conditions: Sequence[Condition], names: Sequence[str]) -> list[Cell]:
    return [cell(images, setting, by=model(name)) for name in names for setting in conditions]


FILTERED_CELLS = cells_of(PHOTOGRAPHS, FILTERS, ("one", "two"))
BAND_CELLS = cells_of(PAIRS, BANDS, ("two",))


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Databases with cells in common: one run was broken off, one has a gate, images of a user's and a source."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {name: folder / f"{name}.duckdb" for name in NAMES}
    for file in ("bands.duckdb", "both.duckdb"):
        database_of(folder, PAIRS, [outcome(PAIRS, cell) for cell in BAND_CELLS], "bands", file=file)
    filtered = [outcome(PHOTOGRAPHS, cell) for cell in FILTERED_CELLS]
    database_of(folder, PHOTOGRAPHS, filtered, "filtered", file="both.duckdb")
    with open_store(paths["broken_off"]) as store:
        store.begin_study("filtered", 'name = "filtered"', FILTERED_CELLS, [PHOTOGRAPHS])
        parts = [*filtered[:3], outcome(PHOTOGRAPHS, FILTERED_CELLS[3], 7)]
        store.commit(parts, {cell.variant: SESSION for cell in FILTERED_CELLS})
    with open_store(paths["gated"]) as store:
        pairs = [
            tuple(cell(PHOTOGRAPHS, setting, by=model("one"), precision=precision) for precision in ("fp32", "int8"))
            for setting in FILTERS
        ]
        cells = [cell for pair in pairs for cell in pair]
        store.add_cells(cells, [PHOTOGRAPHS])
        store.commit([outcome(PHOTOGRAPHS, cell) for cell in cells], {cell.variant: SESSION for cell in cells})
        gate_precision(store, "int8 against fp32", pairs, Limits())
        store_study(store, "own", SITES, [outcome(SITES, cell(SITES, by=model("elsewhere", classes=2)))])
        store.execute(
            "INSERT INTO published_value (source, model, benchmark, metric, condition, unit) "
            "VALUES ('s', 'm', '', 'x', '', '')"
        )
    return paths


Rows = dict[str, list[tuple[object, ...]]]


def content(database: Path) -> Rows:
    """All rows of all tables, ids included; `meta` says when the file was made."""
    with open_store(database, read_only=True) as store:
        tables = [table for table in store.frame(TABLES)["table_name"] if table != "meta"]
        return {table: store.frame(f"FROM {table} ORDER BY ALL").rows() for table in tables}


Grouping = str | tuple["Grouping", ...]


def merge_groups(databases: dict[str, Path], grouping: Grouping, folder: Path) -> Path:
    """Merge the databases of each group, and then the groups."""
    if isinstance(grouping, str):
        return databases[grouping]
    paths = [merge_groups(databases, group, folder) for group in grouping]
    out = folder / f"{len(list(folder.iterdir()))}.duckdb"
    merge(paths, out).raise_contradictions()
    return out


@pytest.fixture(scope="module")
def merged(databases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merge_groups(databases, NAMES, tmp_path_factory.mktemp("merged"))


def test_any_order_and_grouping_gives_the_same_rows(databases: dict[str, Path], merged: Path, tmp_path: Path) -> None:
    grouping = (("gated", ("both", "broken_off")), "bands")
    assert content(merge_groups(databases, grouping, tmp_path)) == content(merged)


QUERIES = [
    "SELECT name, version, toml FROM study",
    "SELECT version, checkpoint, image_set, probe, parameters, n, top1, round(low, 9) FROM accuracy",
    "SELECT digest, image_index, path, cluster FROM image JOIN image_set ON image_set.id = image.image_set",
    "SELECT digest, label.scheme, image_index, class FROM label JOIN image_set ON image_set.id = label.image_set",
    "SELECT name, value, image_index FROM image_attribute",
    "SELECT class, name FROM own_class_name",
    "SELECT source, model FROM published_value",
    "SELECT checkpoint, image_set, n, flips, verdict FROM precision_gate",
]


def test_it_has_the_rows_of_all_once_under_their_names(databases: dict[str, Path], merged: Path) -> None:
    every = pl.concat([rows_of(path) for path in databases.values()])
    assert rows_of(merged).equals(every.unique().sort(every.columns))
    assert len(rows_of(merged)) < len(every), "the databases have cells in common"
    originals: dict[str, set[tuple[object, ...]]] = {query: set() for query in QUERIES}
    for path in databases.values():
        with open_store(path, read_only=True) as store:
            for query, rows in originals.items():
                rows.update(store.frame(query).rows())
    with open_store(merged, read_only=True) as store:
        for query, rows in originals.items():
            assert set(store.frame(query).rows()) == rows != set(), query
        assert [check.problems for check in check_database(store) if check.problems] == []


def test_a_run_goes_on_in_a_merged_database(databases: dict[str, Path], tmp_path: Path) -> None:
    """Ids go on, too: the version that is added has other checkpoints."""
    out = tmp_path / "out.duckdb"
    merge([databases["broken_off"], databases["bands"]], out)
    with open_store(out) as store:
        progress = store.progress(FILTERED_CELLS)
        assert [progress[cell.key] for cell in FILTERED_CELLS] == [20, 20, 20, 7, 0, 0]
        for cell in FILTERED_CELLS:
            predictions, first = outcome(PHOTOGRAPHS, cell).predictions, progress[cell.key]
            assert predictions.label_rank is not None
            rest = part(cell, predictions.predicted[first:], predictions.label_rank[first:], first)
            store.commit([rest] if first < 20 else [], {cell.variant: SESSION})
        third = [outcome(PHOTOGRAPHS, cell) for cell in cells_of(PHOTOGRAPHS, FILTERS, ("three",))]
        assert store_study(store, "filtered", PHOTOGRAPHS, third) == "filtered@2"
        labels = store.frame("SELECT label FROM study_version WHERE study = 'filtered' ORDER BY 1")["label"]
        assert labels.to_list() == ["filtered@1", "filtered@2"]
        delete_study(store, "filtered@2")
    assert rows_of(out).equals(rows_of(databases["both"]))


def test_every_table_has_its_rule(databases: dict[str, Path]) -> None:
    with open_store(databases["bands"], read_only=True) as store:
        tables = store.frame(TABLES)["table_name"].to_list()
    computed = {"label_interval", "measure_value", "own_measure", "own_answer", "human_value", "error_consistency"}
    assert set(tables) == {*IDENTITIES, *GROUPS, *computed, "meta", "part", "prediction"}


VERDICT = (
    "INSERT INTO release_verdict SELECT study.id, 'before@1', study_cell.cell, '', measure, 6, 1, 1, ?, 0, 0, 0.01, 0, "
    "0, 'pass', NULL, 0, 0, NULL, ?::TIMESTAMPTZ FROM study JOIN study_cell ON study_cell.study = study.id, "
    "unnest(?::VARCHAR[]) AS measures(measure)"
)


@pytest.mark.parametrize(("moments", "loss_of_last"), [((2, 1), 0.5), ((1, 1), None)])
def test_the_last_verdicts_stay_and_those_of_one_moment_are_chosen_by_content(
    tmp_path: Path, moments: tuple[int, int], loss_of_last: float | None
) -> None:
    """A table of verdicts stays whole, though the earlier one has a measure more."""
    paths = [make(tmp_path / f"{name}.duckdb", "mine", [0] * 6) for name in "ab"]
    for path, moment, loss, measures in zip(
        paths, moments, (0.5, 0.25), (["accuracy"], ["accuracy", "rank"]), strict=True
    ):
        with open_store(path) as store:
            store.execute(VERDICT, [loss, f"2026-01-0{moment}", measures])
    tables = []
    for number, order in enumerate((paths, paths[::-1])):
        merge(order, tmp_path / f"out{number}.duckdb")
        tables.append(content(tmp_path / f"out{number}.duckdb"))
    assert tables[0] == tables[1]
    verdicts = ask(tmp_path / "out0.duckdb", "SELECT DISTINCT loss FROM release_verdict")
    assert len(verdicts) == 1
    assert loss_of_last in (None, verdicts[0][0])


# Contradictions

IMAGES = image_set(6, labels=range(6))
LOWPASS, HIGHPASS = (cell(IMAGES, condition(probe, cutoff=0.1)) for probe in ("lowpass", "highpass"))
HIGHPASS_PART = part(HIGHPASS, [0] * 6, [0, *[1] * 5])


def make(path: Path, name: str, predicted: list[int]) -> Path:
    """A database of a study with two conditions; of the first one, `predicted` of the first images."""
    rank = [int(predicted[k] != k) for k in range(len(predicted))]
    parts = [part(LOWPASS, predicted, rank), HIGHPASS_PART]
    return database_of(path.parent, IMAGES, parts, name, file=path.name)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two databases that contradict each other."""
    return [make(tmp_path / "a.duckdb", "a", [0] * 6), make(tmp_path / "b.duckdb", "b", [0, 1, 2, 0, 0])]


def predictions(database: Path) -> list[tuple[object, ...]]:
    return ask(database, "SELECT predicted FROM prediction JOIN cell ON cell.id = cell JOIN condition ON "
                         "condition.id = condition WHERE probe = 'lowpass' ORDER BY image_index")  # fmt: skip


def test_the_user_may_say_which_is_right_in_any_spelling(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, preferred in enumerate((pair[0], Path(pair[1].name))):
        out = tmp_path / f"out{number}.duckdb"
        merged = merge(pair, out, prefer=preferred).raise_contradictions()
        assert (len(merged.contradictions), merged.written) == (1, True)
        assert predictions(out) == predictions(preferred)
        complete = ask(
            out, "SELECT probe FROM cell JOIN condition ON condition.id = condition WHERE complete ORDER BY 1"
        )
        assert complete == [("highpass",), ("lowpass",)][: 2 - number], "what has images left to run says so"


def test_what_is_preferred_decides_nothing_of_two_others(pair: list[Path], tmp_path: Path) -> None:
    third = database_of(tmp_path, IMAGES, [HIGHPASS_PART], "third", file="third.duckdb")
    assert not merge([*pair, third], tmp_path / "out.duckdb", prefer=third).written


CHANGES = {
    "label": "UPDATE label SET class = 1 - class",
    "image": "UPDATE image SET path = path || '.png'",
    "own_class_name": "UPDATE own_class_name SET name = 'arch' WHERE class = 0",
    "image_attribute": "UPDATE image_attribute SET value = 'B'",
    "image_set": "UPDATE image_set SET count = 2",
    "condition": "UPDATE condition SET parameters = '{}', probe = 'lowpass'",
    "frequency of a condition": "UPDATE condition SET cycles_per_pixel = 0.25",
    "filter of a condition": "UPDATE condition SET cuts = NOT cuts",
    "native Nyquist limit": "UPDATE image_set SET own_cycles = 12",
    "head of a checkpoint": "UPDATE checkpoint SET head = '{}'",
    "architecture of a checkpoint": "UPDATE checkpoint SET architecture = 'other'",
    "cell": "UPDATE cell SET precision = 'int8'",
    "best_rank": "UPDATE prediction SET best_rank = 1",
    "last digit of a confidence": "UPDATE prediction SET confidence = confidence + power(2, -24)",
    "label_probability": "UPDATE prediction SET label_probability = 0.25",
    "published_value": "UPDATE published_value SET value = 2",
}
"""Statements that have another database say something else of the same things."""
FIGURE = (
    "INSERT INTO published_value (source, model, benchmark, metric, condition, value, unit) "
    "VALUES ('s', 'm', '', 'x', '', 1, '')"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of which others are changed copies."""
    path = tmp_path_factory.mktemp("original") / "original.duckdb"
    with open_store(path) as store:
        store_study(store, "sites", SITES, [outcome(SITES, cell(SITES, by=model("net", classes=2)))])
        store.execute(FIGURE)
    return path


def changed_copy(original: Path, path: Path, changes: Iterable[str]) -> Path:
    path.write_bytes(original.read_bytes())
    with open_store(path) as store:
        for change in changes:
            store.execute(change)
    return path


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_differs_of_one_thing_is_a_contradiction(change: str, original: Path, tmp_path: Path) -> None:
    changed = changed_copy(original, tmp_path / "changed.duckdb", [change])
    merger = merge([original, changed], tmp_path / "out.duckdb")
    assert (merger.written, bool(merger.contradictions)) == (False, True)
    with pytest.raises(StoreError, match=r"contradict each other, .*; nothing was written: .* name with --prefer"):
        merger.raise_contradictions()


def test_the_user_decides_on_whatever_differs(original: Path, tmp_path: Path) -> None:
    changed = changed_copy(original, tmp_path / "changed.duckdb", CHANGES.values())
    decided = merge([changed, original], tmp_path / "out.duckdb", prefer=original).raise_contradictions()
    assert content(decided.out) == content(merge([original, original], tmp_path / "twice.duckdb").out)


def test_labels_attributes_and_names_that_one_database_alone_has_are_no_contradiction(
    original: Path, tmp_path: Path
) -> None:
    changes = ("UPDATE {} SET scheme = 'other'", "UPDATE {} SET name = 'scanner'", "DELETE FROM {} WHERE class = 1")
    tables = ("label", "image_attribute", "own_class_name")
    statements = [change.format(table) for table, change in zip(tables, changes, strict=True)]
    paths = [original, changed_copy(original, tmp_path / "changed.duckdb", statements)]
    rows = content(merge(paths, tmp_path / "out.duckdb").raise_contradictions().out)
    assert [len(rows[table]) for table in tables] == [6, 4, 2]
    assert content(merge(paths[::-1], tmp_path / "again.duckdb").out) == rows


@pytest.mark.parametrize("count", [1, 2])
def test_what_does_not_agree_with_itself_gets_no_name(pair: list[Path], tmp_path: Path, count: int) -> None:
    with open_store(pair[0]) as store:
        store.execute("UPDATE part SET right1 = 6")
    with pytest.raises(StoreError, match=r"net, set, \w+pass .* has sums of right answers .*; nothing was written"):
        merge(pair[:count], tmp_path / "out.duckdb", prefer=pair[0])
    assert sorted(tmp_path.iterdir()) == sorted(pair)


# One database


def test_of_one_database_a_merge_is_a_smaller_copy(databases: dict[str, Path], tmp_path: Path) -> None:
    path, out, images = tmp_path / "old.duckdb", tmp_path / "new.duckdb", image_set(40_000)
    path.write_bytes(databases["gated"].read_bytes())
    with open_store(path) as store:
        store_study(store, "deleted", images, [part(cell(images), np.random.default_rng(0).integers(0, 1000, 40_000))])
        delete_study(store, "deleted")
        free = free_bytes(store)
        (last,) = store.frame("SELECT last_value FROM duckdb_sequences()")["last_value"]
        store.execute("INSERT INTO measure_value (study, checkpoint, metric, state) VALUES (1, 2, 'x', 'ok')")
    merged = merge([path], out)
    assert (len(merged.studies), merged.cells, merged.written) == (1, len(ask(path, "FROM cell")), True)
    assert content(out) == content(path)
    assert 0 < free / 2 < path.stat().st_size - out.stat().st_size
    with open_store(out) as store:
        assert store.frame("SELECT nextval('id') AS next")["next"][0] > last


def test_whoever_may_not_read_one_of_the_databases_may_not_read_the_merged_one(
    databases: dict[str, Path], tmp_path: Path
) -> None:
    paths = [tmp_path / "a.duckdb", tmp_path / "b.duckdb"]
    for path, mode in zip(paths, (0o640, 0o604), strict=True):
        path.write_bytes(databases["bands"].read_bytes())
        path.chmod(mode)
    assert merge(paths, tmp_path / "out.duckdb").out.stat().st_mode & 0o777 == 0o600


# Refusals


def test_names_that_are_refused(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    occupied = tmp_path / "taken.duckdb"
    occupied.touch()
    for paths, target, prefer, words in (
        (pair, occupied, None, "is there already and stays as it is"),
        (pair, pair[0], None, "is there already and stays as it is"),
        (pair, tmp_path / "none" / "out.duckdb", None, "no folder"),
        (pair, out, occupied, "is none of the databases"),
        ([*pair, tmp_path / "none.duckdb"], out, None, "no results database at"),
        ([], out, None, "no database to merge"),
    ):
        with pytest.raises(UsageError, match=words):
            merge(paths, target, prefer)
    assert occupied.read_bytes() == b""
    assert not out.exists()


def test_two_studies_of_one_name_are_told_apart_by_the_user(tmp_path: Path) -> None:
    paths = [make(tmp_path / "a.duckdb", "mine", [0] * 6)]
    paths.append(database_of(tmp_path, IMAGES, [HIGHPASS_PART], "mine", file="my results.duckdb"))
    line = f"different studies mine@1.*bandlens studies rename mine NEW --db '{paths[1]}'"
    with pytest.raises(UsageError, match=line):
        merge(paths, tmp_path / "out.duckdb")


def test_a_database_that_disagrees_with_itself_is_refused(pair: list[Path], tmp_path: Path) -> None:
    strange, images = tmp_path / "strange.duckdb", image_set(4)
    with open_store(strange) as store:
        store_study(store, "strange", images, [part(cell(images), [0] * 4)])
        store.execute("DELETE FROM prediction WHERE image_index = 3")
    with pytest.raises(StoreError, match=f"{strange} has 3 predictions of cells whose parts count 4; `bandlens verify"):
        merge([pair[0], strange], tmp_path / "out.duckdb")
    assert not (tmp_path / "out.duckdb").exists()


def test_the_command(command: Command, pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    refusal = command("merge", *pair, "--out", out)
    assert "net, set, lowpass cutoff=0.1\n" in refusal.out
    assert [f"database_{side}  {path}\n" in refusal.out for side, path in zip("ab", pair, strict=True)] == [True, True]
    assert refusal.err.startswith(f"bandlens: {pair[0]} and {pair[1]} contradict each other")
    assert (refusal.code, refusal.err.count("\n"), sorted(tmp_path.glob("*.duckdb"))) == (1, 1, pair)
    answer = command("merge", *pair, "--out", out, "--prefer", pair[0], "--format", "json")
    document = json.loads(answer.out)
    assert (answer.code, document["studies"], document["cells"], document["shared"]) == (0, ["a@1", "b@1"], 2, 2)
    assert (document["predictions"], len(document["contradictions"])) == (12, 1)
