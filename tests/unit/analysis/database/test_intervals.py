"""The interval of a cell is stored when the cell is complete, and follows its clean cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from made_up_results import (
    SESSION,
    Images,
    cell,
    condition,
    image_set,
    model,
    part,
    store_study,
    store_trials,
    trials_of,
)
from numpy.typing import NDArray

from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.database.study_versions import delete_study
from bandlens.analysis.statistics.proportions import share_interval, share_of
from bandlens.analysis.statistics.wilson import counted_share
from bandlens.core.records import Condition, Finished

CLUSTERS = np.arange(60) // 4
LABELS = np.arange(60) % 10
REAL = [[k % 10, (k + 1) % 10] if k % 3 else [] for k in range(60)]
CLEAN, BLURRED = condition(), condition("lowpass", cutoff=0.1)
STORED = "SELECT probe, ci_low, ci_high FROM cell JOIN condition ON condition.id = condition ORDER BY ALL"


def outcome(images: Images, setting: Condition, seed: int, first: int = 0, stop: int = 60, by: str = "net") -> Finished:
    """Random classes of some images, all of which depend on the seed."""
    predicted = np.random.default_rng(seed).integers(0, 3, 60)
    predicted = np.where(predicted == 0, LABELS, predicted)[first:stop]
    rank = None if images.labels is None else (predicted != images.labels[first:stop]) * 2
    return part(cell(images, setting, by=model(by)), predicted, rank, first)


def interval(correct: NDArray[np.bool_], clusters: NDArray[np.int64]) -> tuple[float, float]:
    return share_interval(share_of(correct, clusters))


def predicted(outcome: Finished) -> NDArray[np.int64]:
    return outcome.predictions.predicted.astype(np.int64)


@pytest.mark.parametrize("clusters", [CLUSTERS, np.arange(60)], ids=["clusters", "independent images"])
def test_complete_cell_has_the_interval_of_its_outcomes_for_each_label_scheme(
    store: Store, clusters: NDArray[np.int64]
) -> None:
    images = image_set(60, labels=LABELS, clusters=clusters, schemes={"real": REAL})
    result = outcome(images, BLURRED, 1)
    store_study(store, "s", images, [result])
    expected = interval(predicted(result) == LABELS, clusters)
    assert store.frame(STORED).row(0)[1:] == pytest.approx(expected)
    assert store.frame("SELECT low, high FROM accuracy").row(0) == pytest.approx(expected)
    has_label = np.array([bool(classes) for classes in REAL])
    correct = np.array([answer in classes for answer, classes in zip(predicted(result), REAL, strict=True)])
    expected = interval(correct[has_label], clusters[has_label])
    view = store.frame("SELECT low, high FROM label_accuracy WHERE scheme = 'real'")
    assert view.row(0) == pytest.approx(expected)
    assert store.frame("SELECT scheme, ci_low, ci_high FROM label_interval").rows() == [("real", *view.row(0))]


def test_cell_without_all_of_its_images_has_no_interval(store: Store) -> None:
    images = image_set(60, labels=LABELS, clusters=CLUSTERS)
    first, rest = outcome(images, BLURRED, 1, stop=25), outcome(images, BLURRED, 1, first=25)
    store_study(store, "s", images, [first])
    assert store.frame(STORED).rows() == [("lowpass", None, None)]
    store.commit([rest], {rest.cell.variant: SESSION})
    [(_, low, high)] = store.frame(STORED).rows()
    assert (low, high) == pytest.approx(interval(predicted(outcome(images, BLURRED, 1)) == LABELS, CLUSTERS))


UNLABELLED = image_set(60, clusters=CLUSTERS)


def agreement(blurred: Finished, clean: Finished) -> tuple[float, float]:
    return interval(predicted(blurred) == predicted(clean), CLUSTERS)


def test_interval_of_agreement_follows_the_clean_cell(store: Store) -> None:
    """Of two clean cells that differ in their seed alone, the later one is what others are compared with."""
    blurred, clean, other = (outcome(UNLABELLED, *kind) for kind in ((BLURRED, 1), (CLEAN, 2), (CLEAN, 3)))
    store_study(store, "blurred", UNLABELLED, [blurred])
    assert store.frame(STORED).rows() == [("lowpass", None, None)]
    store_study(store, "clean", UNLABELLED, [clean])
    rows = store.frame(STORED).rows()
    assert rows[0] == ("clean", None, None), "a cell agrees with itself by definition"
    assert rows[1][1:] == pytest.approx(agreement(blurred, clean))
    again = replace(other, cell=replace(other.cell, seed=1))
    store_study(store, "again", UNLABELLED, [again])
    assert store.frame(STORED).row(2)[1:] == pytest.approx(agreement(blurred, other))
    delete_study(store, "again")
    assert store.frame(STORED).row(1)[1:] == pytest.approx(agreement(blurred, clean))
    delete_study(store, "clean")
    assert store.frame(STORED).rows() == [("lowpass", None, None)]


def test_merge_computes_the_agreement_of_cells_with_the_clean_cells_of_another_database(tmp_path: Path) -> None:
    blurred, clean = outcome(UNLABELLED, BLURRED, 1), outcome(UNLABELLED, CLEAN, 2)
    paths = [tmp_path / "blurred.duckdb", tmp_path / "clean.duckdb"]
    for path, result in zip(paths, (blurred, clean), strict=True):
        with open_store(path) as store:
            store_study(store, path.stem, UNLABELLED, [result])
    merge(paths, tmp_path / "out.duckdb")
    with open_store(tmp_path / "out.duckdb", read_only=True) as store:
        assert store.frame(STORED).row(1)[1:] == pytest.approx(agreement(blurred, clean))


def test_predictions_that_are_taken_over_have_their_interval(store: Store) -> None:
    images = image_set(60, labels=LABELS, clusters=CLUSTERS)
    fewer = image_set(20, labels=LABELS[:20], clusters=CLUSTERS[:20])
    result = outcome(images, BLURRED, 1)
    store_study(store, "s", images, [result])
    smaller = cell(fewer, BLURRED, by=model("net"))
    store.begin_study("fewer", "", [smaller], [fewer])
    store.reuse(np.arange(20), [(smaller.key, result.cell.key, 20)])
    low, high = store.frame("SELECT ci_low, ci_high FROM cell WHERE key = ?", [smaller.key]).row(0)
    assert (low, high) == pytest.approx(interval(predicted(result)[:20] == LABELS[:20], CLUSTERS[:20]))
    assert [check.problems for check in check_database(store) if check.problems] == []


def test_clustered_interval_in_sql_is_that_of_the_clusters_in_any_order(store: Store) -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, 30)
    correct = random.binomial(sizes, 0.6)
    low, high = counted_share(correct, sizes).ends()
    for order in (np.arange(30), random.permutation(30)):
        lists = [correct[order].tolist(), sizes[order].tolist()]
        ends = store.frame("SELECT clustered_interval(?::BIGINT[], ?::BIGINT[]) AS ends", lists)["ends"].to_list()
        assert ends == [pytest.approx([float(low), float(high)])]


def test_clustered_interval_works_in_each_of_several_connections_to_a_file(tmp_path: Path) -> None:
    """DuckDB shares functions between the connections of a process, and a connection takes its function along."""
    path, query = tmp_path / "results.duckdb", "SELECT clustered_interval([1, 2], [3, 3]) AS ends"
    with open_store(path):
        pass
    with open_store(path, read_only=True) as outer:
        with open_store(path, read_only=True) as inner:
            assert inner.frame(query).equals(outer.frame(query))
        assert outer.frame(query)["ends"].list.len().to_list() == [2]
        functions = outer.frame(
            "SELECT count(*) FROM duckdb_functions() WHERE function_name LIKE 'clustered_interval_%'"
        )
        assert functions.item() == 1


def test_views_of_a_file_that_duckdb_opens_have_stored_intervals_and_none_of_people(tmp_path: Path) -> None:
    path = tmp_path / "results.duckdb"
    images = image_set(60, labels=LABELS, clusters=CLUSTERS)
    with open_store(path) as store:
        store_study(store, "s", images, [outcome(images, BLURRED, 1)])
        store_trials(store, trials_of("contrast", "c30", "subject-01", np.arange(9) < 5))
        expected = store.frame("SELECT low, high FROM accuracy").rows()
        assert store.frame("SELECT low FROM condition_accuracy")["low"].null_count() == 0
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("SELECT low, high FROM accuracy").fetchall() == expected
        people = connection.execute("SELECT n, low, high FROM condition_accuracy").fetchall()
    assert people == [(9, None, None)]
