"""The report as a file: what is in it, what is escaped, and what it says where there is nothing to show."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
from jsonschema import ValidationError
from jsonschema.validators import validator_for
from made_up_results import cell, condition, image_set, model, part, store_study
from reported import GRID, HOSTILE, add_metrics, make_database, measured_section
from typer.testing import CliRunner

from bandlens.analysis.comparison.verdict import Verdict
from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.app.commands.results import COMMANDS
from bandlens.app.report.build import write_report
from bandlens.app.report.data import read_data
from bandlens.app.report.page import safe_json
from bandlens.app.report.study import contact_sheet, page_title, provenance, verdict_section
from bandlens.core import __version__
from bandlens.core.errors import StoreError, UnknownName, UsageError
from bandlens.core.protocol import CUTOFFS
from bandlens.probes.images.image_set import open_image_set


class Page(HTMLParser):
    """The file as a browser would read it: its elements, and its text by section."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.scripts: list[str] = []
        self._section, self._inside = "", ""
        self.html = file.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(db: Path, folder: Path | None = None, **options: Any) -> Page:
    out = (folder or db.parent) / "report.html"
    write_report(db, out, **options)
    return Page(out)


@pytest.fixture(scope="module")
def page(stored_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(stored_study, tmp_path_factory.mktemp("report"))


def test_it_is_one_small_file_that_loads_nothing(page: Page) -> None:
    assert len(page.html.encode()) < 3e6
    loaded = [a.get("src") or a.get("href") for tag in ("img", "script", "link", "iframe") for a in page.named(tag)]
    assert all(address is None or address.startswith("data:image/jpeg;base64,") for address in loaded)
    assert all(str(a["href"]).startswith("#") for a in page.named("a"))
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none';")
    assert "unsafe-inline" not in str(policy).split("style-src")[0]


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.named("html") == [{"lang": "en"}]
    assert all(a.get("alt") for a in page.named("img"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"]).removeprefix("#") for a in page.named("a")} <= set(ids)
    assert len(page.named("figure")) == len([a for a in page.named("details") if a.get("class") == "data"]) - 1
    specs = json.loads(page.scripts[0])
    assert all(spec["description"] for spec in specs.values())


def test_everything_has_its_section(page: Page) -> None:
    assert list(page.sections) == [
        "verdict", "curves", "critical-band", "accuracy", "numbers", "measures", "correlations",
        "conditions", "overview", "provenance",
    ]  # fmt: skip
    assert "33,000" in page.sections["overview"]
    assert "Your 5 models" in page.sections["correlations"]
    assert "blur on photographs" in page.sections["curves"]
    assert "expected calibration error on photographs" in page.sections["measures"]
    assert "your own blur" in page.sections["conditions"]
    for fact in ("a processor", "onnxruntime 1", "fp32", 'name = "many"', "120"):
        assert fact in page.sections["provenance"]


def test_published_models_are_there_where_they_are_asked_for(stored_study: Path, tmp_path: Path) -> None:
    page = page_of(stored_study, tmp_path, published=True)
    assert list(page.sections)[-5:] == ["conditions", "atlas", "study", "overview", "provenance"]
    assert "Of 72 correlations, 40 have p < 0.05" in page.sections["study"]
    assert "results of timm models" in page.sections["atlas"]
    assert "shape biasimagenet-r-0.010.750.330.920.71" in page.sections["atlas"]
    assert "Your models among the study's" in page.sections["atlas"]


def test_the_title_is_the_finding_and_its_picture_marks_the_cuts(tmp_path: Path) -> None:
    path, n = tmp_path / "results.duckdb", 200
    cutoffs = (0.1, 0.3, 0.5)
    images = image_set(n, labels=[0] * n)
    settings = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in cutoffs)]
    ranks = [(np.arange(n) >= right).astype(int) for right in (180, 30, 60, 150)]
    with open_store(path) as store:
        cells = [cell(images, setting, by=model("net", classes=1000)) for setting in settings]
        store_study(
            store,
            "s",
            images,
            [part(cell_of_rank, rank, rank) for cell_of_rank, rank in zip(cells, ranks, strict=True)],
        )
        compute_measures(store, "s")
        value, low, high = store.frame("SELECT value, low, high FROM metric WHERE metric = 'lowpass_half_cut'").row(0)
    page = page_of(path)
    title = (
        f"net keeps half of its accuracy above chance on frequencies below {value:.0f} [{low:.0f}, {high:.0f}] cycles"
    )
    assert f"<h1>{title} per image" in page.html
    spec = json.loads(page.scripts[0])["filters-1-0"]
    (ring,) = [row for rows in spec["datasets"].values() for row in rows if "half" in row]
    assert (ring["value"], ring["low"], ring["high"]) == pytest.approx((value, low, high), rel=1e-5)
    chance = 1 / 1000
    assert ring["half"] == pytest.approx(chance + (180 / n - chance) / 2)
    settings_told = {row["setting"] for rows in spec["datasets"].values() for row in rows if "setting" in row}
    assert settings_told == {f"below {int(cutoff * 112)} cycles/image" for cutoff in cutoffs}


@pytest.mark.parametrize("clauses", [2, 6])
def test_a_long_finding_is_a_sentence_below_a_title_of_its_first_clause(stored_study: Path, clauses: int) -> None:
    clause = "relies less on low frequencies in 4 of 8 cases, at most by -0.200"
    against = Verdict([f"Compared with v1, v2 {'; it '.join([clause] * clauses)}."], [])
    results = read_data(stored_study)
    assert results is not None
    verdict = against + results.verdict
    title, text = page_title(results, verdict), verdict_section(results, verdict).text
    whole = against.findings[0]
    assert title == (whole.removesuffix(".") if clauses == 2 else f"Compared with v1, v2 {clause}")
    assert (whole in text) == (clauses == 6)


def test_the_picture_of_the_verdict_is_of_images_without_conflicting_cues(tmp_path: Path) -> None:
    """The sets are `a`, whose images have a shape and a texture, `b` with labels, and `c` without."""
    path, cues = tmp_path / "results.duckdb", {"shape": [[0]] * 60, "texture": [[1]] * 60}
    sets = [
        image_set(60, name="a", labels=[0] * 60, schemes=cues, benchmark="cue-conflict", decision_space="sixteen"),
        image_set(60, name="b", labels=[0] * 60),
        image_set(60, name="c"),
    ]
    rank = [k % 3 for k in range(60)]
    settings = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.5))]
    with open_store(path) as store:
        parts = [part(cell(s, setting), rank, rank if s.info.labelled else None) for s in sets for setting in settings]
        store_study(store, "s", sets, parts)
        compute_measures(store, "s")
    results = read_data(path)
    assert results is not None
    figures = [*verdict_section(results, results.verdict).figures, *measured_section(results, "curves").figures]
    assert [figure.title for figure in figures] == ["Filters on b", "Filters on c", "Filters on a"]
    labelled, unlabelled, conflicting = (figure.caption for figure in figures)
    assert "half of the accuracy above chance" in labelled
    assert "Dotted across: chance" in labelled
    assert "half of the agreement" in unlabelled
    assert "chance" not in unlabelled
    assert ["two cues" in caption for caption in (labelled, unlabelled, conflicting)] == [False, False, True]


def test_the_footer_says_how_to_cite_this_version(page: Page) -> None:
    assert "@software{bandlens, author = {{The bandlens maintainers}}" in page.html
    assert f"version = {{{__version__}}}" in page.html


def test_a_hostile_name_is_text(page: Page) -> None:
    assert len(page.scripts) == 3
    assert "alert(1)" not in page.scripts[1] + page.scripts[2]
    assert HOSTILE in page.sections["accuracy"]
    specs = json.loads(page.scripts[0])
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"') for spec in specs.values())
    assert {"data-pick": HOSTILE, "type": "button", "aria-pressed": "false"} in page.named("button")


@pytest.mark.parametrize("text", [HOSTILE, "</SCRIPT >", "<!--", "]]>", "\u2028", "&lt;"])
def test_no_text_ends_the_script_that_holds_it(text: str) -> None:
    assert json.loads(safe_json({"a": text})) == {"a": text}
    assert not re.search("[<>&]", safe_json({"a": text}))


def test_probes_of_nearly_one_name_have_figures_apart(tmp_path: Path) -> None:
    images = image_set(20, labels=[0] * 20)
    settings = [condition(name, width=width) for name in ("Noise", "noise", "no/ise") for width in (1, 2)]
    with open_store(tmp_path / "results.duckdb") as store:
        parts = [part(cell(images, s), answer := [k % 7] * 20, answer) for k, s in enumerate([condition(), *settings])]
        store_study(store, "s", images, parts)
    page = page_of(tmp_path / "results.duckdb")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    drawn = [str(a["data-spec"]) for a in page.named("div") if "data-spec" in a]
    specs = json.loads(page.scripts[0])
    assert sorted(drawn) == sorted(specs)
    titles = [spec["description"].partition(" on ")[0] for spec in specs.values()]
    assert {"Noise", "noise", "no/ise"} <= {*titles}


def test_failed_cells_are_counted_in_the_order_of_the_study(tmp_path: Path) -> None:
    images = image_set(20, labels=[0] * 20)
    with open_store(tmp_path / "results.duckdb") as store:
        settings = [condition(), *(condition("blur", sigma=sigma) for sigma in range(1, 15))]
        store_study(store, "s", images, [part(cell(images, s), [0] * 20, [0] * 20) for s in settings])
        store.execute("UPDATE cell SET complete = false, error = 'error ' || id % 7")
        errors = store.frame("SELECT error FROM cell ORDER BY id")["error"].unique(maintain_order=True)
    results = read_data(tmp_path / "results.duckdb")
    assert results
    [table] = [table for table in provenance(results).tables if table.title == "Cells that failed"]
    assert table.frame["error"].to_list() == errors.to_list()


def test_a_database_without_a_study(tmp_path: Path) -> None:
    with open_store(tmp_path / "empty.duckdb"):
        pass
    page = page_of(tmp_path / "empty.duckdb")
    assert list(page.sections) == ["overview", "conditions", "atlas", "study"]
    assert "empty.duckdb holds no study yet" in page.sections["overview"]
    with pytest.raises(UsageError, match="holds no study, so there is nothing to compare"):
        page_of(tmp_path / "empty.duckdb", against="a@1")
    with pytest.raises(UnknownName, match="unknown study 'a'"):
        page_of(tmp_path / "empty.duckdb", study="a")


def test_one_model_and_no_metrics(tmp_path: Path) -> None:
    make_database(tmp_path / "one.duckdb", 1, GRID)
    page = page_of(tmp_path / "one.duckdb")
    assert "explain generalization, since 1 model, and a correlation needs 4" in page.sections["verdict"]
    assert "numbers" not in page.sections, "nothing empty is drawn"


def test_no_cell_is_complete(tmp_path: Path) -> None:
    images = image_set(20)
    with open_store(tmp_path / "begun.duckdb") as store:
        half = part(cell(images), [1] * 10)
        store_study(store, "begun", images, [half])
    page = page_of(tmp_path / "begun.duckdb")
    assert "0 of 1 cell are complete" in page.sections["verdict"]
    assert {"accuracy", "curves"}.isdisjoint(page.sections)


@pytest.mark.parametrize(
    ("probe", "settings", "title"),
    [
        ("fourier", [{"row": 0, "column": 1}, {"row": 2, "column": -3}], "cycles across"),
        ("fourier_bin", [{"octave": 0, "orientation": 45.0}, {"octave": 4, "orientation": 0.0}], "octave, from"),
    ],
)
def test_waves_are_drawn_as_a_map_for_each_norm(
    tmp_path: Path, probe: str, settings: list[dict[str, float]], title: str
) -> None:
    images = image_set(20, labels=[0] * 20)
    waves = [condition(probe, **setting, norm=norm) for norm in (4.0, 15.7) for setting in settings]
    with open_store(tmp_path / "waves.duckdb") as store:
        parts = [
            part(cell(images, setting), [0] * 20, [k // 3] * 20) for k, setting in enumerate([condition(), *waves])
        ]
        store_study(store, "waves", images, parts)
    specs = json.loads(page_of(tmp_path / "waves.duckdb").scripts[0]).values()
    maps = [json.dumps(spec) for spec in specs if spec["description"].startswith(probe.replace("_", " ") + " on")]
    for spec in maps:
        color = json.loads(spec)["encoding"]["color"]
        assert color["title"] == "1 - accuracy (share of images)"
        assert color["legend"], "a map keeps the scale of its colours"
    for spec, norm, error in zip(maps, ("4", "15.7"), ("0.0", "1.0"), strict=True):
        assert title in spec
        assert f", norm={norm}" in spec
        assert spec.count(f'"top1": {error}') == spec.count('"top1": ') > 0


def test_clean_images_only(tmp_path: Path) -> None:
    make_database(tmp_path / "clean.duckdb", 4, [condition()])
    page = page_of(tmp_path / "clean.duckdb")
    assert "explain generalization, since no metrics; run `bandlens analyze" in page.sections["verdict"]
    assert {"curves", "critical-band"}.isdisjoint(page.sections), "nothing empty is drawn"


def test_groups_of_benchmarks_have_a_figure_and_their_notes(tmp_path: Path) -> None:
    path = tmp_path / "groups.duckdb"
    conflict = image_set(
        40, labels=[0] * 40, schemes={"texture": [[1]] * 40}, name="conflict", benchmark="cue-conflict"
    )
    sketch = image_set(40, labels=[0] * 40, name="sketch", benchmark="imagenet-sketch")
    imagenet = image_set(40, labels=[0] * 40, name="imagenet", benchmark="imagenet")
    pgd = condition("pgd_linf", eps=0.5 / 255, step=2 / 255, steps=40)
    cells = [
        cell(images, setting)
        for images, setting in ((conflict, None), (sketch, None), (imagenet, None), (imagenet, pgd))
    ]
    with open_store(path) as store:
        predicted = [k % 3 for k in range(40)]
        store_study(store, "many", [conflict, sketch, imagenet], [part(cell, predicted, predicted) for cell in cells])
    add_metrics(path)
    page = page_of(path)
    assert "incomplete: imagenet-r is missing, stylized is missing" in page.sections["accuracy"]
    assert "40 of 50,000 images" in page.sections["accuracy"]
    assert "Every number on conflict" in page.sections["numbers"]
    described = [spec["description"] for spec in json.loads(page.scripts[0]).values()]
    assert {"Generalization: Adversarial", "Every number on conflict: shape bias"} <= {*described}
    assert "Generalization: Concepts" not in described, "it has no value, since two of its image sets are missing"


def test_what_changed_between_two_databases(stored_study: Path, tmp_path: Path) -> None:
    make_database(tmp_path / "better.duckdb", 5, GRID, shift=0.1)
    page = page_of(tmp_path / "better.duckdb", against=str(stored_study))
    changes = page.sections["changes"]
    assert "0 cells of one and the same predictions, 260 others to compare; 0 only in this study, 15 only in" in changes
    assert page.sections["changes"].count("critical_band") == 5 * 29


def test_what_changed_between_two_versions(tmp_path: Path) -> None:
    images = image_set(20, labels=[0] * 20)
    file = tmp_path / "versions.duckdb"
    with open_store(file) as store:
        store_study(store, "a", images, [part(cell(images), [0] * 20, [0] * 20)])
        more = [part(cell(images, condition("lowpass", cutoff=0.1)), [1] * 20, [1] * 20)]
        store_study(store, "a", images, [part(cell(images), [0] * 20, [0] * 20), *more])
    changes = page_of(file, against="a@1").sections["changes"]
    assert "1 cell of one and the same predictions, 0 others to compare; 1 only in this study, 0 only in" in changes
    with pytest.raises(UsageError, match="a@2 would be compared with itself"):
        page_of(file, against="a")
    with pytest.raises(UnknownName, match=r"did you mean a@2 or a@1|unknown study 'a@3'"):
        page_of(file, against="a@3")
    with pytest.raises(UsageError, match=r"no results database at nowhere\.duckdb"):
        page_of(file, against="nowhere.duckdb")


def test_every_chart_is_valid_vega_lite(page: Page) -> None:
    schema = alt.load_schema()
    specs = json.loads(page.scripts[0])
    assert len(specs) > 50
    validator = validator_for(schema)(schema)
    for spec in specs.values():
        for rows in spec.get("datasets", {}).values():
            del rows[2:]  # any object is a row, and the library looks at each of them several times
        validator.validate(spec)
    with pytest.raises(ValidationError):
        validator.validate(spec | {"mark": "a pie"})


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    file, database = tmp_path / "file", tmp_path / "results.duckdb"
    file.touch()
    make_database(database, 1, [condition()])
    with pytest.raises(UsageError, match=r"cannot write .*file/r.html: .*; name another file with --out"):
        write_report(database, file / "r.html")
    with pytest.raises(UsageError, match=r"cannot write .*; name another folder with --folder"):
        write_report(database, tmp_path / "r.html", figures=["all"], folder=file)
    with pytest.raises(UnknownName, match="unknown study 'mani'; did you mean many"):
        write_report(database, tmp_path / "r.html", study="mani")
    with pytest.raises(StoreError, match="is not a DuckDB database"):
        write_report(file, tmp_path / "r.html")


def test_the_command_says_what_it_wrote(stored_study: Path, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(COMMANDS["report"])
    result = CliRunner().invoke(app, ["--db", str(stored_study), "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    assert re.search(r"r.html: 10 sections, \d+ charts, \d(\.\d+)? MB", result.output)


def test_pictures_are_of_the_own_images_and_tell_their_frequencies(explored: Path) -> None:
    results = read_data(explored / "results.duckdb")
    assert results is not None
    section = contact_sheet(results)
    images = open_image_set(explored / "images.set")
    assert f"on {images.paths[0]} of images." in section.text[0]
    captions = [tile.caption for tile in section.tiles["lowpass"]]
    half = images.info.size // 2
    assert [caption.partition(",")[0] for caption in captions] == [
        f"below {int(c * half)} cycles/image" for c in CUTOFFS
    ]
    assert any(" times brighter" in tile.caption for tile in section.tiles["highpass"])
    bands = [tile.caption for tile in section.tiles["critical band, noise_sd=0.16"]]
    assert bands == [f"at {images.info.size * 2**k / 128:.4g} cycles/image" for k in range(7)]


def test_the_contact_sheet_is_small_and_shows_the_grid() -> None:
    section = contact_sheet(None)
    tiles = [tile for row in section.tiles.values() for tile in row]
    assert len(tiles) == 52
    assert sum(len(tile.source) for tile in tiles) < 400_000
