"""The report's section on changes has the same numbers as `compare` and as a gate of the two studies.

That of releases has the counts and the rows that the gate gave.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study

import bandlens
from bandlens.analysis.comparison.cell_pairs import Run, compare_cells
from bandlens.analysis.comparison.gates import Limits
from bandlens.analysis.comparison.precision_gate import gate_precision
from bandlens.analysis.database.open import open_store
from bandlens.app.report.build import write_report
from bandlens.app.report.data import read_data
from bandlens.app.report.study import changes, changes_section, provenance, releases_section, verdict_section
from bandlens.core.errors import UsageError

N = 400
IMAGES = 1000
CONDITIONS = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.3, 0.5))]


@pytest.fixture
def labelled() -> bool:
    """Whether the images have labels, unless a test says otherwise."""
    return True


@pytest.fixture
def database(tmp_path: Path, labelled: bool) -> Path:
    """A study in fp32 and one in int8, which is much worse under one condition, and by an image under another."""
    images = image_set(N, labels=[0] * N if labelled else None, clusters=np.arange(N) // 2)
    rng, path = np.random.default_rng(0), tmp_path / "results.duckdb"
    clean = rng.random(N) < 0.3
    studies: dict[str, list[object]] = {"fp32": [], "int8": []}
    for setting, flipped in zip(CONDITIONS, (0, 1, 100, 3), strict=True):
        trusted = (clean ^ (rng.random(N) < (0.1 if setting.parameters else 0))).astype(int)
        int8_rank = trusted.copy()
        int8_rank[rng.permutation(N)[:flipped]] ^= 1
        for precision, rank in (("fp32", trusted), ("int8", int8_rank)):
            ranks = rank if labelled else None
            studies[precision].append(part(cell(images, setting, precision=precision), rank, ranks))
    with open_store(path) as store:
        for name, parts in studies.items():
            store_study(store, name, images, parts)
        pairs = [(a.cell, b.cell) for a, b in zip(*studies.values(), strict=True)]
        gate_precision(store, "int8 against fp32", pairs, Limits())
    return path


@pytest.mark.parametrize("labelled", [True, False])
def test_compare_gate_and_report_give_one_answer(database: Path) -> None:
    with open_store(database, read_only=True) as store:
        comparison = compare_cells(Run(store, "fp32@1"), Run(store, "int8@1"))
        gates = store.frame("FROM gate ORDER BY probe, cutoff")
    cells = comparison.cells.sort("probe", "parameters")
    for name in ("lost", "gained", "difference", "low", "high", "p"):
        assert gates[name].to_list() == cells[name].to_list(), name
    assert (gates["flips"] * N).round().to_list() == cells["changed"].to_list()
    results = read_data(database, "int8")
    rows = changes(comparison, results).sort("probe", "condition")
    compared = cells.drop_nulls("difference")
    for name in ("difference", "low", "high"):
        assert rows[name].to_list() == pytest.approx((100 * compared[name]).to_list()), name
    for name in ("lost", "gained", "p_holm"):
        assert rows[name].to_list() == compared[name].to_list(), name
    assert compared["difference"].ne(0).sum() > compared["p_holm"].lt(0.05).sum() == 1
    assert rows.filter("differs")["condition"].to_list() == ["below 33 cycles/image"]
    pages = (results, read_data(database, "fp32"))
    assert ["Precision gates" in {table.title for table in provenance(page).tables} for page in pages] == [True, False]


def test_the_section_counts_what_differs_by_the_test_and_shows_intervals(database: Path) -> None:
    _, verdict, section = changes_section(read_data(database, "int8"), "fp32")
    assert verdict.findings[0].startswith(
        "Compared with fp32@1, net in int8@1 is less accurate in 1 of 3 perturbed cells"
    )
    [figure] = section.figures
    assert {"low", "high", "p_holm"} <= set(figure.table.columns)
    points = [row for panel in figure.panels.values() for rows in panel.to_dict()["datasets"].values() for row in rows]
    assert [row["condition"] for row in points if row["differs"]] == ["below 33 cycles/image"]
    assert all(row["low"] <= row["difference"] <= row["high"] for row in points)


def test_both_databases_are_named_and_their_curves_drawn_with_their_cuts(tmp_path: Path) -> None:
    images, net = image_set(N, labels=[0] * N), model("net", classes=1000)
    for file, counts in (("old.duckdb", (350, 50, 100, 300)), ("new.duckdb", (390, 20, 250, 380))):
        ranks = [(np.arange(N) >= count).astype(int) for count in counts]
        settings = zip(CONDITIONS, ranks, strict=True)
        parts = [part(cell(images, setting, by=net), rank, rank) for setting, rank in settings]
        db = database_of(tmp_path, images, parts, file=file, measured=True)
    old = tmp_path / "old.duckdb"
    results, verdict, section = changes_section(read_data(db), str(old))
    assert section.title == f"What changed against s@1 of {old}"
    start, *clauses = verdict.findings[0].split("; it ")
    assert start.startswith(f"Compared with s@1 of {old}, net in s@1 of {db} is more accurate without pert")
    assert clauses[0].startswith("is more accurate in 2 of 3 perturbed cells, at most by +0.375 [")
    assert clauses[1].startswith("is less accurate in 1 of 3 perturbed cells, at most by -0.075 [")
    names = ["net", f"net in s@1 of {old}"]
    [figure] = verdict_section(results, verdict).figures
    assert ([*figure.legend], figure.table["checkpoint"].unique().sort().to_list()) == (names, names)
    points = [row for rows in figure.panels["lowpass"].to_dict()["datasets"].values() for row in rows]
    assert [sorted({row["model"] for row in points if column in row}) for column in ("top1", "half")] == [names, names]


def test_what_to_compare_with_is_a_study_unless_it_is_a_file_or_called_as_one(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(database.parent)
    (database.parent / "fp32").mkdir()
    results = read_data(database, "int8")
    assert changes_section(results, "fp32")[2].title == "What changed against fp32@1"
    _, _, section = changes_section(results, str(shutil.copy(database, "other")))
    assert section.title == "What changed against int8@1 of other"
    for name in ("gone.db", "gone.duckdb"):
        with pytest.raises(UsageError, match=f"no results database at {name}"):
            changes_section(results, name)


def test_verdicts_on_a_study_are_a_section_of_its_report_alone(tmp_path: Path) -> None:
    images, settings = image_set(IMAGES, labels=[0] * IMAGES), [condition(), condition("lowpass", cutoff=0.3)]
    for name, losses in (("old", 0), ("new", 200)):
        ranks = [np.zeros(IMAGES, int), (np.arange(IMAGES) < losses).astype(int)]
        cells = [cell(images, setting, by=model(name)) for setting in settings]
        parts = [part(cell, rank, rank) for cell, rank in zip(cells, ranks, strict=True)]
        db = database_of(tmp_path, images, parts, name)
    released = bandlens.gate("new", "old", db, margin=0.05)
    assert sorted(released.rows["verdict"]) == ["fail", "pass"]
    section = releases_section(read_data(db, "new"))
    assert section.text == ["Against old@1: 1 pass, 1 fail, 0 undecided."]
    counts, failing, every = (table.frame for table in section.tables)
    assert counts.select("against", "checkpoint", "pass", "fail", "worst_loss").rows() == [("old@1", "new", 1, 1, 0.2)]
    assert failing.select("probe", "loss", "margin", "verdict").rows() == [("lowpass", 0.2, 0.05, "fail")]
    assert len(every) == 2
    assert not releases_section(read_data(db, "old")).tables
    write_report(db, tmp_path / "report.html", "new")
    assert 'id="releases"' in (tmp_path / "report.html").read_text(encoding="utf-8")
