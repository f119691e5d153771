"""`bandlens analyze`: the metrics of a run, printed and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, database_of, image_set, model, part
from reported import GRID
from small import Command, ask

import bandlens


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on images without labels: study `a` has the whole grid, and study `b` its low-passes."""
    folder, images, rng = tmp_path_factory.mktemp("analyze"), image_set(20), np.random.default_rng(0)
    parts = [
        part(cell(images, setting, by=model(name)), rng.integers(0, 3, 20))
        for name in ("one", "two")
        for setting in GRID
    ]
    database_of(folder, images, parts, "a")
    return database_of(folder, images, [part for part in parts if part.cell.condition.probe == "lowpass"], "b")


def test_every_number_of_every_checkpoint_is_printed_and_kept(command: Command, database: Path) -> None:
    answer = command("analyze", "--db", database, "--study", "a", "--format", "json")
    assert (answer.code, answer.err) == (0, "")
    table = json.loads(answer.out)
    assert {(row["study"], row["checkpoint"]) for row in table} == {("a@1", "one"), ("a@1", "two")}
    columns = ("checkpoint", "metric", "value", "low", "high", "state", "note")
    rows = ask(database, f"SELECT {', '.join(columns)} FROM metric WHERE study = 'a'")
    assert sorted(map(str, rows)) == sorted(str(tuple(map(row.get, columns))) for row in table)


def test_all_studies_unless_one_is_asked_for(command: Command, database: Path) -> None:
    out = command("analyze", "--db", database).out
    table = out.partition("\nno value ")[0]
    assert ("a@1" in table, "b@1" in table) == (True, True)
    with bandlens.open(database) as reader:
        assert out.endswith(f"\n\na@1, b@1: {reader.verdict('b@1')[0]}\n"), "they have one sentence"


def test_metrics_without_a_value_are_last_and_one_line_a_reason(command: Command, database: Path) -> None:
    words = ("analyze", "--db", database, "--study", "b")
    rows = json.loads(command(*words, "--format", "json").out)
    reasons = {(row["value"] is None, row["note"]) for row in rows if row["note"]}
    output, _, verdict = command(*words).out.rpartition("\n\n")
    table, _, lines = output.rpartition("\n\n")
    assert "low_frequency_bias" in table
    assert [reason for _, reason in reasons if reason in table] == []
    assert {(line.startswith("no "), line.split(": ", 1)[1]) for line in lines.splitlines()} == reasons
    assert len(lines.splitlines()) == len(reasons)
    assert "no value (missing) of high_frequency_bias" in lines
    assert ": highpass lacks the cutoffs 0.1" in lines
    assert "by one, two, set, b@1" in lines
    with bandlens.open(database) as reader:
        assert reader.verdict("b@1")[0] == verdict.strip()
    markdown = command(*words, "--format", "markdown")
    assert "missing" not in markdown.out
    assert verdict not in markdown.out
    assert verdict in markdown.err
    assert "no value (missing) of " in markdown.err
    page = command("analyze", "--db", database, "--study", "a").out
    assert "critical_threshold_3" not in page
    assert "\nnot listed: 34 further numbers, such as those of single bands; --format csv has all\n" in page
