"""Which version of a study a word asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_results import cell, condition, image_set
from small import Command

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.database.studies import last_run, study_label, study_versions
from bandlens.errors import UnknownName, UsageError

IMAGES = image_set(2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "results.duckdb") as opened:
        yield opened


def begin(store: Store, name: str, *cutoffs: float) -> None:
    cells = [cell(IMAGES, condition("lowpass", cutoff=cutoff)) for cutoff in cutoffs]
    store.begin_study(name, "", cells, [IMAGES])


@pytest.fixture
def several(store: Store) -> Store:
    for name, cutoff in (("mine", 0.1), ("mine", 0.2), ("theirs", 0.1)):
        begin(store, name, cutoff)
    return store


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [("mine", ["mine@2"]), ("mine@1", ["mine@1"]), ("mine@2", ["mine@2"]), ("*", ["mine@2", "theirs@1"])],
)
def test_a_word_asks_for_versions(several: Store, wanted: str, labels: list[str]) -> None:
    assert study_versions(several, wanted)["label"].to_list() == labels
    assert several.frame("SELECT label FROM version_of(?) ORDER BY study_id", [wanted])["label"].to_list() == labels


def test_one_version_is_asked_for_by_its_name_or_as_the_only_one(store: Store) -> None:
    begin(store, "mine", 0.1)
    begin(store, "mine", 0.2)
    assert [study_label(store, wanted) for wanted in (None, "*", "mine", "mine@1")] == [
        *["mine@2"] * 3,
        "mine@1",
    ]


def test_what_there_is_not_is_told_with_names_that_are_near(several: Store) -> None:
    for look_up in (study_label, study_versions):
        with pytest.raises(UnknownName, match="unknown study 'mime'; did you mean mine"):
            look_up(several, "mime")
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


# The same in SQL

MACROS = (
    "accuracy_of",
    "label_accuracy_of",
    "curve_of",
    "flip_of",
    "metric_of",
    "condition_metric_of",
    "study_detail_of",
    "version_of",
)


@pytest.mark.parametrize("macro", MACROS)
def test_sql_refuses_what_is_not_there(several: Store, macro: str) -> None:
    """No cell is complete here: joins that come to nothing hide no error."""
    with pytest.raises(UsageError, match=r"^unknown study 'mime'; did you mean mine or mine@1 or mine@2\?$"):
        several.frame(f"FROM {macro}('mime')")
    with pytest.raises(UsageError, match=r"^unknown study 'q'; known: mine, mine@1, mine@2, theirs, theirs@1$"):
        several.frame(f"SELECT count(*) FROM {macro}(?)", ["q"])
    assert several.frame(f"FROM {macro}('mine') UNION ALL FROM {macro}('mine@1')").height == 2 * (macro == "version_of")
    assert several.frame(f"FROM {macro}('*')").height == 2 * (macro == "version_of")


@pytest.mark.parametrize("macro", MACROS)
def test_sql_on_a_database_without_studies(store: Store, macro: str) -> None:
    assert store.frame(f"FROM {macro}('*')").is_empty()
    with pytest.raises(UsageError, match="unknown study 'mine'; the database holds none"):
        store.frame(f"FROM {macro}('mine')")


def test_the_error_is_one_line_wherever_it_is_asked(several: Store, command: Command) -> None:
    path = several.path
    several._connection.close()
    for format_ in ("table", "json"):
        answer = command("sql", "FROM accuracy_of('mime')", "--db", path, "--format", format_)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == "bandlens: unknown study 'mime'; did you mean mine or mine@1 or mine@2?\n"
    with bandlens.open(path) as results:
        for ask in (results.accuracy, results.curves, results.flips, results.metrics):
            with pytest.raises(UsageError, match="unknown study 'mime'; did you mean mine"):
                ask("mime")
