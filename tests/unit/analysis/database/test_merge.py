"""Databases that real runs made, merged: the same rows in any order and grouping, and no choice that nobody made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_results import cell, condition, image_set, part, store_study
from small import Command, ask, make_images, make_model, make_pictures, make_study, rows_of

from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import GROUPS, IDENTITIES, LEFT_OUT, REFERENCES, merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.study_versions import delete_study, free_bytes
from bandlens.app.imported import import_predictions
from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study_precision
from bandlens.app.study.resolve import resolve
from bandlens.app.study.study_run import run_study
from bandlens.core.errors import StoreError, UsageError
from bandlens.core.jobs import silent

TABLES = "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name"
COUNT = 20
NAMES = ("bands", "both", "broken_off", "gated")


def stopped_after(predictions: int) -> Callable[..., SimpleNamespace]:
    """A progress that ends a run, as Ctrl-C does, once it has made so many predictions."""
    left = predictions

    def advance(amount: float = 1, /) -> None:
        nonlocal left
        left -= int(amount)
        if left < 0:
            raise KeyboardInterrupt

    def progress(what: str, total: float | None, unit: str) -> SimpleNamespace:
        return silent(what, total, unit) if what != "running" else Block()

    class Block:
        def __enter__(self) -> Callable[[float], None]:
            return advance

        def __exit__(self, *_: object) -> None: ...

    return progress


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Databases of real runs with cells in common: one run was broken off, one was a gate; one has an import, too."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        make_model(folder / "models", name, seed=seed)
    make_images(folder / "images.set", make_pictures(COUNT), labels=[k % 12 for k in range(COUNT)])
    make_images(folder / "more.set", make_pictures(COUNT // 2, seed=1), folders=2)
    filtered = make_study(folder, name="filtered", probes="lowpass = {cutoff = [0.1, 0.3]}")
    bands = make_study(
        folder, name="bands", checkpoints=["two"], images=["more.set"],
        probes="critical_band = {noise_sd = [0.1], frequency = [1, 4]}",
    )  # fmt: skip
    gated = make_study(folder, name="gated", checkpoints=["one"], engine="torch", probes="lowpass = {cutoff = 0.3}")
    paths = {name: folder / f"{name}.duckdb" for name in NAMES}
    run_study(resolve(Study.read(bands)), paths["bands"])
    for study in (bands, filtered):
        run_study(resolve(Study.read(study)), paths["both"])
    with pytest.raises(KeyboardInterrupt):
        run_study(resolve(Study.read(filtered)), paths["broken_off"], 0, progress=stopped_after(95))
    gate_study_precision(Study.read(gated), paths["gated"], "fp32", "onnxruntime:fp32")
    (folder / "labels.csv").write_text("file_name,label\na.png,3\nb.png,4\n")
    (folder / "made.csv").write_text("file_name,predicted_class\na.png,3\nb.png,5\n")
    import_predictions(folder / "made.csv", ["elsewhere"], folder / "labels.csv", paths["gated"])
    with open_store(paths["gated"]) as store:
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


@st.composite
def groupings(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> Grouping:
    """The databases in any order, in groups of groups."""
    groups: list[Grouping] = list(draw(st.permutations(names)))
    while len(groups) > 1:
        first = draw(st.integers(0, len(groups) - 2))
        last = draw(st.integers(first + 2, len(groups)))
        groups[first:last] = [tuple(groups[first:last])]
    return groups[0]


@pytest.fixture(scope="module")
def merged(databases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merge_groups(databases, NAMES, tmp_path_factory.mktemp("merged"))


@pytest.fixture(scope="module")
def merged_rows(merged: Path) -> Rows:
    return content(merged)


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(grouping=groupings())
def test_any_order_and_grouping_gives_the_same_rows(
    databases: dict[str, Path], merged_rows: Rows, tmp_path_factory: pytest.TempPathFactory, grouping: Grouping
) -> None:
    assert content(merge_groups(databases, grouping, tmp_path_factory.mktemp("groups"))) == merged_rows


def test_it_has_the_rows_of_all_once_under_their_names(databases: dict[str, Path], merged: Path) -> None:
    every = pl.concat([rows_of(path) for path in databases.values()])
    assert rows_of(merged).equals(every.unique().sort(every.columns))
    assert len(rows_of(merged)) < len(every), "the databases have cells in common"
    studies = "SELECT label, study, checkpoint, image_set, probe, parameters, engine FROM study_version "
    studies += "JOIN study_detail_of(label) USING (study) ORDER BY ALL"
    names = {row for path in databases.values() for row in ask(path, "SELECT name, version, toml FROM study")}
    assert set(ask(merged, "SELECT name, version, toml FROM study")) == names
    accuracies = "SELECT version, checkpoint, image_set, probe, parameters, n, top1, low, high FROM accuracy"
    assert set(ask(merged, accuracies)) == {row for path in databases.values() for row in ask(path, accuracies)}
    paths = "SELECT digest, image_index, path, cluster FROM image JOIN image_set ON image_set.id = image.image_set"
    assert set(ask(merged, paths)) == {row for path in databases.values() for row in ask(path, paths)}
    gate = "SELECT checkpoint, image_set, n, flips, verdict FROM precision_gate"
    assert ask(merged, gate) == ask(databases["gated"], gate) != []
    with open_store(merged, read_only=True) as store:
        assert [check.problems for check in check_database(store) if check.problems] == []


def test_a_run_goes_on_in_a_merged_database(databases: dict[str, Path], tmp_path: Path) -> None:
    """Ids go on, too: the version that is added has other checkpoints."""
    study = Study.read(databases["both"].parent / "filtered.toml")
    out = tmp_path / "out.duckdb"
    merge([databases["broken_off"], databases["bands"]], out)
    begun = ask(out, "SELECT count(*) FROM prediction JOIN cell ON cell.id = cell WHERE NOT complete")[0][0]
    assert begun > 0
    work = resolve(study)
    stored = ask(out, "SELECT count(*) FROM prediction JOIN study_cell USING (cell) JOIN study ON study.id = study "
                      "WHERE name = 'filtered'")[0][0]  # fmt: skip
    assert run_study(work, out).predictions == COUNT * len(work.cells) - stored
    run_study(resolve(replace(study, checkpoints=["one"])), out)
    assert ask(out, "SELECT label FROM study_version WHERE study = 'filtered' ORDER BY 1") == [
        ("filtered@1",), ("filtered@2",),
    ]  # fmt: skip
    assert rows_of(out).equals(rows_of(databases["both"]))


def test_every_table_has_its_rule(databases: dict[str, Path]) -> None:
    with open_store(databases["bands"], read_only=True) as store:
        tables = store.frame(TABLES)["table_name"].to_list()
    assert set(tables) == {*IDENTITIES, *GROUPS, *REFERENCES, *LEFT_OUT, "prediction"}


VERDICT = (
    "INSERT INTO release_verdict SELECT study.id, 'before@1', study_cell.cell, '', measure, 6, 1, 1, ?, 0, 0, 0.01, 0, "
    "0, 'pass', NULL, 0, 0, NULL, ?::TIMESTAMPTZ FROM study JOIN study_cell ON study_cell.study = study.id, "
    "unnest(?::VARCHAR[]) AS measures(measure)"
)
GATE = (
    "INSERT INTO precision_gate SELECT min(id), max(id), 'net', 'own', 'set', 6, 1, 1, ?, 0, 0, 0, 0, 1, 0, 0, 0, "
    "'pass', NULL, 0.01, 0.003, ?::TIMESTAMPTZ FROM cell"
)


@pytest.mark.parametrize(("moments", "losses"), [((2, 1), [0.5]), ((1, 2), [0.25]), ((1, 1), None)])
def test_the_last_verdicts_stay_and_those_of_one_moment_are_chosen_by_content(
    tmp_path: Path, moments: tuple[int, int], losses: list[float] | None
) -> None:
    """A table of verdicts stays whole, though the earlier one has a measure more."""
    paths = [make(tmp_path / f"{name}.duckdb", "mine", [0] * 6) for name in "ab"]
    for path, moment, loss, measures in zip(
        paths, moments, (0.5, 0.25), (["accuracy"], ["accuracy", "rank"]), strict=True
    ):
        with open_store(path) as store:
            store.execute(VERDICT, [loss, f"2026-01-0{moment}", measures])
            store.execute(GATE, [loss, f"2026-01-0{moment}"])
    tables = []
    for number, order in enumerate((paths, paths[::-1])):
        merge(order, tmp_path / f"out{number}.duckdb")
        tables.append(content(tmp_path / f"out{number}.duckdb"))
    assert tables[0] == tables[1]
    kept = ask(tmp_path / "out0.duckdb", "SELECT DISTINCT loss FROM release_verdict")
    gates = ask(tmp_path / "out0.duckdb", "SELECT difference FROM precision_gate")
    if losses is None:
        assert len(kept) == len(gates) == 1
    else:
        assert [loss for (loss,) in kept] == [loss for (loss,) in gates] == losses


# Contradictions

IMAGES = image_set(6, labels=range(6))
LOWPASS, HIGHPASS = (cell(IMAGES, condition(probe, cutoff=0.1)) for probe in ("lowpass", "highpass"))


def make(path: Path, name: str, predicted: list[int], confidence: float = 0.5) -> Path:
    """A database of a study with two conditions; of the first one, `predicted` of the first images."""
    with open_store(path) as store:
        rank = [int(predicted[k] != k) for k in range(len(predicted))]
        whole = part(HIGHPASS, [0] * 6, [0, *[1] * 5])
        store_study(store, name, IMAGES, [part(LOWPASS, predicted, rank, confidence=confidence), whole])
    return path


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two databases that contradict each other."""
    return [make(tmp_path / "a.duckdb", "a", [0] * 6), make(tmp_path / "b.duckdb", "b", [0, 1, 2, 0, 0])]


def predictions(database: Path) -> list[tuple[object, ...]]:
    return ask(database, "SELECT predicted FROM prediction JOIN cell ON cell.id = cell JOIN condition ON "
                         "condition.id = condition WHERE probe = 'lowpass' ORDER BY image_index")  # fmt: skip


def test_a_contradiction_is_described_and_nothing_is_written(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    refused = merge(pair, out)
    (contradiction,) = refused.contradictions
    session = 'onnxruntime fp32 on a processor, batch 8, 1 threads, {"onnxruntime": "1"}'
    assert contradiction == {
        "cell": "net, set, lowpass cutoff=0.1",
        "images": 5,
        "other_class": 2,
        "confidence": 0,
        "database_a": str(pair[0]),
        "ran_a": session,
        "database_b": str(pair[1]),
        "ran_b": session,
    }
    with pytest.raises(StoreError, match=r"contradict each other, 1 times in all, the first: net, set, lowpass"):
        refused.raise_contradictions()
    assert sorted(tmp_path.iterdir()) == sorted(pair)


def test_the_user_may_say_which_is_right(pair: list[Path], tmp_path: Path) -> None:
    for number, right in enumerate(pair):
        out = tmp_path / f"out{number}.duckdb"
        merged = merge(pair, out, prefer=right).raise_contradictions()
        assert (merged.contradicted, merged.written) == (1, True)
        assert predictions(out) == predictions(right)
        complete = ask(
            out, "SELECT probe FROM cell JOIN condition ON condition.id = condition WHERE complete ORDER BY 1"
        )
        assert complete == [("highpass",), ("lowpass",)][: 2 - number], "what has images left to run says so"


def test_the_preferred_database_may_be_spelled_in_another_way(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out.duckdb"
    merge(pair, out, prefer=Path(pair[1].name)).raise_contradictions()
    assert predictions(out) == predictions(pair[1])


def test_what_is_preferred_decides_nothing_of_two_others(pair: list[Path], tmp_path: Path) -> None:
    third = tmp_path / "third.duckdb"
    with open_store(third) as store:
        store_study(store, "third", IMAGES, [part(HIGHPASS, [0] * 6, [0, *[1] * 5])])
    assert not merge([*pair, third], tmp_path / "out.duckdb", prefer=third).written


def test_a_confidence_that_differs_in_its_last_digit_is_told_too(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{k}.duckdb", str(k), [0] * 6, 0.5 + k * 2**-24) for k in range(2)]
    (contradiction,) = merge(paths, tmp_path / "out.duckdb").contradictions
    assert (contradiction["other_class"], contradiction["confidence"]) == (0, 2**-24)


# One database


def test_of_one_database_a_merge_is_a_smaller_copy(databases: dict[str, Path], tmp_path: Path) -> None:
    path, out, images = tmp_path / "old.duckdb", tmp_path / "new.duckdb", image_set(100_000)
    path.write_bytes(databases["gated"].read_bytes())
    with open_store(path) as store:
        store_study(store, "deleted", images, [part(cell(images), [k % 1000 for k in range(100_000)])])
        delete_study(store, "deleted")
        free = free_bytes(store)
        (last,) = store.frame("SELECT last_value FROM duckdb_sequences()")["last_value"]
        store.execute("INSERT INTO measure_value (study, checkpoint, metric, state) VALUES (1, 2, 'x', 'ok')")
    merged = merge([path], out)
    assert (len(merged.studies), merged.cells, merged.written) == (1, len(ask(path, "FROM cell")), True)
    assert content(out) == content(path)
    assert 0 < free / 2 < path.stat().st_size - out.stat().st_size
    with open_store(out) as store:
        assert store.frame("SELECT nextval('id') AS next")["next"][0] == last + 1


def test_a_database_that_is_named_twice_adds_nothing(pair: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link.duckdb"
    link.symlink_to(pair[0])
    merged = merge([pair[0], link, pair[0]], tmp_path / "out.duckdb").raise_contradictions()
    assert rows_of(merged.out).equals(rows_of(pair[0]))


# Refusals


def test_names_that_are_refused(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    taken = tmp_path / "taken.duckdb"
    taken.touch()
    for paths, target, prefer, words in (
        (pair, taken, None, "is there already and stays as it is"),
        (pair, pair[0], None, "is there already and stays as it is"),
        (pair, tmp_path / "none" / "out.duckdb", None, "no folder"),
        (pair, out, taken, "is none of the databases"),
        ([*pair, tmp_path / "none.duckdb"], out, None, "no results database at"),
    ):
        with pytest.raises(UsageError, match=words):
            merge(paths, target, prefer)
    assert taken.read_bytes() == b""
    assert not out.exists()


def test_two_studies_of_one_name_are_told_apart_by_the_user(tmp_path: Path) -> None:
    paths = [make(tmp_path / "a.duckdb", "mine", [0] * 6), tmp_path / "b.duckdb"]
    with open_store(paths[1]) as store:
        store_study(store, "mine", IMAGES, [part(HIGHPASS, [0] * 6, [0, *[1] * 5])])
    with pytest.raises(UsageError, match=f"different studies mine@1.*bandlens studies rename mine NEW --db {paths[1]}"):
        merge(paths, tmp_path / "out.duckdb")


def test_commands_that_are_advised_quote_paths(tmp_path: Path) -> None:
    folder = tmp_path / "my results"
    folder.mkdir()
    paths = [make(folder / "a.duckdb", "mine", [0] * 6), folder / "b.duckdb"]
    with open_store(paths[1]) as store:
        store_study(store, "mine", IMAGES, [part(HIGHPASS, [0] * 6, [0, *[1] * 5])])
    with pytest.raises(UsageError, match=f"bandlens studies rename mine NEW --db '{paths[1]}'"):
        merge(paths, folder / "out.duckdb")


def test_a_database_that_disagrees_with_itself_is_refused(pair: list[Path], tmp_path: Path) -> None:
    strange, more = tmp_path / "strange.duckdb", image_set(4)
    with open_store(strange) as store:
        store_study(store, "strange", more, [part(cell(more), [0] * 4)])
        store.execute("DELETE FROM prediction WHERE image_index = 3")
    with pytest.raises(StoreError, match=f"{strange} has 3 predictions of cells whose parts count 4; `bandlens verify"):
        merge([pair[0], strange], tmp_path / "out.duckdb")
    assert not (tmp_path / "out.duckdb").exists()


@pytest.mark.usefixtures("made_databases")
def test_what_another_version_made_is_refused(pair: list[Path], tmp_path: Path) -> None:
    with open_store(pair[1]) as store:
        store.execute("UPDATE meta SET schema_version = 1")
    with pytest.raises(StoreError, match=f"{pair[1]} has schema version 1"):
        merge(pair, tmp_path / "out.duckdb")


def test_the_command(command: Command, pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    refused = command("merge", *pair, "--out", out)
    assert refused.code == 1
    assert f"database_b   {pair[1]}\n" in refused.out
    assert refused.err.startswith(f"bandlens: {pair[0]} and {pair[1]} contradict each other")
    assert (refused.err.count("\n"), out.exists()) == (1, False)
    answer = command("merge", *pair, "--out", out, "--prefer", pair[0], "--format", "json")
    document = json.loads(answer.out)
    assert (answer.code, document["studies"], document["cells"], document["shared"]) == (0, ["a@1", "b@1"], 2, 2)
    assert document["predictions"] == 12
    assert document["contradictions"][0]["other_class"] == 2
