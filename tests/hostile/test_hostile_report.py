"""Names, paths, notes and errors of someone else's in the report: text, and never markup, a script or an address."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fuzzing import refusal
from made_up_results import cell, condition, image_set, model, part, store_study
from report_page import ReportPage

from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.app.report.build import write_report
from bandlens.core.records import Failed, Model, digest_of
from bandlens.probes.grid import PUBLISHED, make_grid

PAYLOADS = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--<script>",
    "]]></style></title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "&lt;b&gt;&#60;i&#62;",
    "${alert(1)} `x` \\u003c",
    "datum.model = alert(1)",
    "../../etc/passwd",
    "\u2028\u202e\x1b[31m",
]


def make_names(hostile: bool) -> list[str]:
    """The payloads with their numbers, or harmless names in the same order and of the same length."""
    return [f"{number:02} {text if hostile else 'x' * len(text)}" for number, text in enumerate(PAYLOADS)]


def make(path: Path, names: list[str]) -> None:
    """A database in which every text that others choose is one of the names."""
    paths = [f"{names[2]}/{k}" for k in range(40)]
    images = image_set(40, labels=[0] * 40, name=names[0], benchmark=names[1], paths=paths)
    models = [
        Model(
            name, names[3], names[4], digest_of(name), names[5], names[6], Path("x.onnx"), digest_of(name, 1), 224, 10
        )
        for name in names
    ]
    user_condition = condition(names[7], **{names[8]: names[9]})
    grid = make_grid(PUBLISHED, Path()).conditions
    ranks = np.random.default_rng(0).integers(0, 3, (len(names), len(grid) + 1, 40))
    parts = [
        part(cell(images, setting, by=by), ranks[row, column], ranks[row, column])
        for row, by in enumerate(models)
        for column, setting in enumerate((*grid, user_condition))
    ]
    failing = cell(images, user_condition, by=model(f"{names[11]} again"))
    with open_store(path) as store:
        classes = {"all": dict(enumerate(names))}
        store_study(store, names[10], images, parts, classes)
        cells = [*(stored_part.cell for stored_part in parts), failing]
        store.begin_study(names[10], f"# {names[0]}\nname = 1", cells, [images], classes)
        store.commit([Failed(failing, f"probe failed: {names[1]}")], {})
        compute_measures(store, names[10])
        store.execute("UPDATE measure_value SET note = ? WHERE metric LIKE 'low%'", [names[2]])


def page_of(folder: Path, names: list[str]) -> ReportPage:
    folder.mkdir()
    make(folder / "results.duckdb", names)
    write_report(folder / "results.duckdb", folder / "report.html")
    return ReportPage((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> ReportPage:
    return page_of(tmp_path_factory.mktemp("report") / "hostile", make_names(hostile=True))


def shape(page: ReportPage) -> Counter[tuple[str, tuple[str, ...]]]:
    """The number of elements of each kind, with these attributes."""
    return Counter((tag, tuple(sorted(attributes))) for tag, attributes in page.elements)


def test_the_page_is_made_of_the_same_elements_as_with_harmless_names(page: ReportPage, tmp_path: Path) -> None:
    harmless = page_of(tmp_path / "harmless", make_names(hostile=False))
    assert len(harmless.elements) > 1000
    assert shape(page) == shape(harmless)


def test_nothing_runs_or_is_loaded(page: ReportPage) -> None:
    assert len(page.scripts) == 3
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "action", "formaction", "data", "srcdoc"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:image/jpeg;base64,"))
        assert tag not in ("iframe", "object", "embed", "base", "svg", "link", "form")


def strings_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {text for entry in value.values() for text in strings_of(entry)}
    if isinstance(value, list):
        return {text for entry in value for text in strings_of(entry)}
    return {value} if isinstance(value, str) else set()


def test_charts_hold_names_as_data_and_never_as_what_is_computed(page: ReportPage) -> None:
    specs = json.loads(page.scripts[0])
    names = set(make_names(hostile=True))
    assert names <= strings_of(specs)
    assert "<" not in page.scripts[0]

    def check(value: object, key: str = "") -> None:
        if key in ("test", "expr", "filter", "calculate", "update", "signal", "href", "url") or key.endswith("Expr"):
            assert not any(name in text for name in names for text in strings_of(value) | {str(value)})
        for inner, entry in value.items() if isinstance(value, dict) else ():
            check(entry, inner)
        for entry in value if isinstance(value, list) else ():
            check(entry, key)

    check(specs)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE measure_value SET value = 'nan'",
        'UPDATE condition SET parameters = \'{"a": {"b": []}}\'',
        "UPDATE condition SET cutoff = 'nan', noise_sd = 'inf'",
        "UPDATE part SET right1 = -5, seconds = 'nan'",
    ],
)
def test_a_database_that_was_changed_by_hand_is_reported_or_one_line(
    change: str, stored_study: Path, tmp_path: Path
) -> None:
    shutil.copyfile(stored_study, tmp_path / "results.duckdb")
    with open_store(tmp_path / "results.duckdb") as store:
        store.execute(change)
    refusal(lambda: write_report(tmp_path / "results.duckdb", tmp_path / "report.html"))
