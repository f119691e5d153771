"""The report's section of releases has the counts and the rows that the gate gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_up_results import cell, condition, image_set, model, part, store_study

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.app.report.build import write_report
from bandlens.app.report.data import read_data
from bandlens.app.report.study import releases_section

N = 1000


def test_verdicts_on_a_study_are_a_section_of_its_report_alone(tmp_path: Path) -> None:
    db, images = tmp_path / "results.duckdb", image_set(N, labels=[0] * N)
    with open_store(db) as store:
        for name, lost in (("old", 0), ("new", 200)):
            ranks = [np.zeros(N, int), (np.arange(N) < lost).astype(int)]
            settings = [condition(), condition("lowpass", cutoff=0.3)]
            parts = [
                part(cell(images, setting, by=model(name)), rank, rank)
                for setting, rank in zip(settings, ranks, strict=True)
            ]
            store_study(store, name, images, parts)
    released = bandlens.gate("new", "old", db, margin=0.05)
    assert sorted(released.rows["verdict"]) == ["fail", "pass"]
    results = read_data(db, "new")
    assert results is not None
    section = releases_section(results)
    assert section.text == ["Against old@1: 1 pass, 1 fail, 0 undecided."]
    counts, failing, every = (table.frame for table in section.tables)
    assert counts.select("against", "checkpoint", "pass", "fail", "worst_loss").rows() == [("old@1", "new", 1, 1, 0.2)]
    assert failing.select("probe", "loss", "margin", "verdict").rows() == [("lowpass", 0.2, 0.05, "fail")]
    assert len(every) == 2
    for study, has_section in (("new", True), ("old", False)):
        write_report(db, tmp_path / "report.html", study)
        assert ('id="releases"' in (tmp_path / "report.html").read_text(encoding="utf-8")) is has_section
