"""The report's section on accuracy without perturbation."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_results import cell, image_set, model, part, store_study

from bandlens.analysis.database.open import open_store
from bandlens.app.report.accuracy import accuracy_section
from bandlens.app.report.data import read_data


@pytest.mark.parametrize(("classes", "top5"), [(3, None), (6, 1.0)])
def test_a_line_says_why_top5_has_no_number(tmp_path: Path, classes: int, top5: float | None) -> None:
    images = image_set(40, labels=[0] * 40)
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "s", images, [part(cell(images, by=model(classes=classes)), [0] * 40, [0] * 40)])
    results = read_data(tmp_path / "results.duckdb")
    assert results is not None
    section = accuracy_section(results)
    assert section.tables[0].frame["top5"].to_list() == [top5]
    why = "Top-5 has no number among five classes or fewer: the five highest logits hold every label."
    assert section.text == ([] if top5 else [why])
