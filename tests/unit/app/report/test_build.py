"""The report as a file: what is in it, what is escaped, and what it says where there is nothing to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part
from report_page import ReportPage
from reported import HOSTILE, make_database, measured_section

from bandlens.analysis.comparison.verdict import Verdict
from bandlens.analysis.database.open import open_store
from bandlens.app.report.build import write_report
from bandlens.app.report.data import ReportData, read_data
from bandlens.app.report.study import changes_section, contact_sheet, page_title, verdict_section
from bandlens.core import __version__
from bandlens.core.errors import UnknownName, UsageError
from bandlens.core.protocol import CUTOFFS
from bandlens.probes.images.image_set import open_image_set


def page_of(db: Path, folder: Path | None = None, **options: Any) -> ReportPage:
    out = (folder or db.parent) / "report.html"
    write_report(db, out, **options)
    return ReportPage(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(stored_study: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportPage:
    return page_of(stored_study, tmp_path_factory.mktemp("report"), published=True)


@pytest.fixture(scope="module")
def results(stored_study: Path) -> ReportData:
    return read_data(stored_study)


def test_it_is_one_small_file_that_loads_nothing(page: ReportPage) -> None:
    assert len(page.html.encode()) < 3e6
    addresses = [a.get("src") or a.get("href") for tag in ("img", "script", "link", "iframe") for a in page.named(tag)]
    assert all(address is None or address.startswith("data:image/jpeg;base64,") for address in addresses)
    assert all(str(a["href"]).startswith("#") for a in page.named("a"))
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none';")
    assert "unsafe-inline" not in str(policy).split("style-src")[0]


def test_whoever_may_not_read_the_database_may_not_read_its_report(tmp_path: Path) -> None:
    images = image_set(12, labels=[0] * 12)
    settings = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.5))]
    parts = [part(cell(images, setting), [0] * 12, [0] * 12) for setting in settings]
    private, public = (database_of(tmp_path, images, parts, file=f"{name}.duckdb") for name in ("private", "public"))
    private.chmod(0o600)
    for database, against in ((private, None), (public, str(private))):
        out, folder = database.with_suffix(".html"), database.with_suffix(".figures")
        written = write_report(database, out, None, against, figures=["filters-on-set"], folder=folder)
        assert written.figures
        assert {file.stat().st_mode & 0o777 for file in (written.out, *written.figures)} == {0o600}


def test_it_can_be_read_without_seeing_it(page: ReportPage) -> None:
    assert page.named("html") == [{"lang": "en"}]
    assert all(a.get("alt") for a in page.named("img"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"]).removeprefix("#") for a in page.named("a")} <= set(ids)
    assert len(page.named("figure")) == len([a for a in page.named("details") if a.get("class") == "data"]) - 1
    specs = json.loads(page.scripts[0])
    assert all(spec["description"] for spec in specs.values())


def test_everything_has_its_section(page: ReportPage) -> None:
    assert list(page.sections) == [
        "verdict", "critical-band", "other-probes", "accuracy", "numbers", "measures", "correlations",
        "conditions", "atlas", "provenance",
    ]  # fmt: skip
    assert "Your 5 models" in page.sections["correlations"]
    assert "Other probes on photographs" in page.sections["other-probes"]
    assert "expected calibration error on photographs" in page.sections["measures"]
    assert "your own blur" in page.sections["conditions"]
    for fact in ("33,000", "a processor", "onnxruntime 1", "fp32", 'name = "many"', "120"):
        assert fact in page.sections["provenance"]
    assert "@software{bandlens, author = {{The bandlens maintainers}}" in page.html
    assert f"version = {{{__version__}}}" in page.html


def test_a_section_says_once_how_to_read_its_figures(page: ReportPage) -> None:
    specs = {name.rpartition("-")[0] for name in json.loads(page.scripts[0])}
    assert len([name for name in specs if name.startswith("measures-")]) > 3
    assert page.sections["measures"].count("Bands, and lines through dots, are 95 % intervals") == 1
    captions = [section.count('<p class="caption">') for section in page.html.split("<section ")[1:]]
    assert set(captions) == {0, 1}
    assert '<p class="caption"></p>' not in page.html


def test_the_title_is_the_finding_and_its_picture_marks_the_cuts(tmp_path: Path) -> None:
    n = 200
    cutoffs = (0.1, 0.3, 0.5)
    images = image_set(n, labels=[0] * n)
    settings = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in cutoffs)]
    ranks = [(np.arange(n) >= count).astype(int) for count in (180, 30, 60, 150)]
    net = model("net", classes=1000)
    parts = [part(cell(images, setting, by=net), rank, rank) for setting, rank in zip(settings, ranks, strict=True)]
    path = database_of(tmp_path, images, parts, measured=True)
    with open_store(path, read_only=True) as store:
        value, low, high = store.frame("SELECT value, low, high FROM metric WHERE metric = 'lowpass_half_cut'").row(0)
    page = page_of(path)
    title = (
        f"net keeps half of its above-chance accuracy on frequencies below {value:.0f} [{low:.0f}, {high:.0f}] cycles"
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
def test_a_long_finding_is_a_sentence_below_a_title_of_its_first_clauses(results: ReportData, clauses: int) -> None:
    clause = "relies less on low frequencies in 4 of 8 cases, at most by -0.200"
    against = Verdict([f"Compared with v1, v2 {'; it '.join([clause] * clauses)}."], [])
    verdict = against + results.verdict
    title, text = page_title(results, verdict), verdict_section(results, verdict).text
    sentence = against.findings[0]
    assert title == f"Compared with v1, v2 {'; it '.join([clause] * min(clauses, 3))}"
    assert (sentence in text) == (clauses == 6)


def test_the_picture_of_the_verdict_is_of_images_without_conflicting_cues(tmp_path: Path) -> None:
    """The sets are `a`, whose images have a shape and a texture, `b` with labels, and `c` without."""
    cues = {"shape": [[0]] * 60, "texture": [[1]] * 60}
    sets = [
        image_set(60, name="a", labels=[0] * 60, schemes=cues, benchmark="cue-conflict", decision_space="sixteen"),
        image_set(60, name="b", labels=[0] * 60),
        image_set(60, name="c"),
    ]
    rank = [k % 3 for k in range(60)]
    settings = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.5))]
    parts = [part(cell(s, setting), rank, rank if s.info.labelled else None) for s in sets for setting in settings]
    results = read_data(database_of(tmp_path, sets, parts, measured=True))
    figures = [*verdict_section(results, results.verdict).figures, *measured_section(results, "curves").figures]
    assert [figure.title for figure in figures] == ["Filters on b", "Filters on c", "Filters on a"]
    labelled, unlabelled, conflicting = (" ".join(figure.caption) for figure in figures)
    assert "half of the above-chance accuracy" in labelled
    assert "Dotted: chance" in labelled
    assert "half of the above-chance agreement" in unlabelled
    assert "Dotted: chance, how often unrelated answers agree" in unlabelled
    assert ["two cues" in caption for caption in (labelled, unlabelled, conflicting)] == [False, False, True]


def test_a_hostile_name_is_text(page: ReportPage) -> None:
    assert len(page.scripts) == 3
    assert "alert(1)" not in page.scripts[1] + page.scripts[2]
    assert HOSTILE in page.sections["accuracy"]
    specs = json.loads(page.scripts[0])
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"') for spec in specs.values())
    assert {"data-pick": HOSTILE, "type": "button", "aria-pressed": "false"} in page.named("button")


def test_a_database_without_a_study_has_no_report(tmp_path: Path) -> None:
    with open_store(tmp_path / "empty.duckdb"):
        pass
    with pytest.raises(UsageError, match=r"empty\.duckdb holds no study; `bandlens run STUDY\.toml --db "):
        page_of(tmp_path / "empty.duckdb")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(UnknownName, match="unknown study 'a'"):
        page_of(tmp_path / "empty.duckdb", study="a")


@pytest.mark.parametrize(("models", "reason"), [(1, ""), (2, "2 models, and a corr"), (4, "no metrics; run")])
def test_clean_images_alone_have_a_reason_in_place_of_charts(tmp_path: Path, models: int, reason: str) -> None:
    results = read_data(make_database(tmp_path, models, [condition()]))
    text = "".join(verdict_section(results, results.verdict).text)
    assert f"explain generalization, since {reason}" in text if reason else "explain generalization" not in text
    assert not any(measured_section(results, name).figures for name in ("curves", "critical-band", "numbers"))


def test_no_cell_is_complete(tmp_path: Path) -> None:
    images = image_set(20)
    page = page_of(database_of(tmp_path, images, [part(cell(images), [1] * 10)]))
    assert "0 of 1 cell are complete" in page.sections["verdict"]
    assert {"accuracy", "curves", "atlas"}.isdisjoint(page.sections), "nothing empty is drawn, and nothing unasked"


WAVES = {
    "fourier": ([{"row": 0, "column": 1}, {"row": 2, "column": -3}], "cycles across"),
    "fourier_bin": ([{"octave": 0, "orientation": 45.0}, {"octave": 4, "orientation": 0.0}], "octave, from"),
}


@pytest.mark.parametrize("probe", WAVES)
def test_waves_are_drawn_as_a_map_for_each_norm(tmp_path: Path, probe: str) -> None:
    settings, title = WAVES[probe]
    images = image_set(20, labels=[0] * 20)
    waves = [condition(probe, **setting, norm=norm) for norm in (4.0, 15.7) for setting in settings]
    parts = [part(cell(images, setting), [0] * 20, [k // 3] * 20) for k, setting in enumerate([condition(), *waves])]
    [figure] = measured_section(read_data(database_of(tmp_path, images, parts)), "other-probes").figures
    maps = [json.dumps(panel.to_dict()) for panel in figure.panels.values()]
    for spec in maps:
        color = json.loads(spec)["encoding"]["color"]
        assert color["title"] == "1 - accuracy (share of images)"
        assert color["legend"], "a map keeps the scale of its colours"
    for spec, norm, error in zip(maps, ("4", "15.7"), ("0.0", "1.0"), strict=True):
        assert title in spec
        assert f", norm={norm}" in spec
        assert spec.count(f'"top1": {error}') == spec.count('"top1": ') > 0


def test_groups_of_benchmarks_have_a_figure_and_their_notes_and_of_one_model_a_table(tmp_path: Path) -> None:
    conflict = image_set(
        40, labels=[0] * 40, schemes={"texture": [[1]] * 40}, name="conflict", benchmark="cue-conflict"
    )
    sketch = image_set(40, labels=[0] * 40, name="sketch", benchmark="imagenet-sketch")
    imagenet = image_set(40, labels=[0] * 40, name="imagenet", benchmark="imagenet")
    pgd = condition("pgd_linf", eps=0.5 / 255, step=2 / 255, steps=40)
    settings = ((conflict, None), (sketch, None), (imagenet, None), (imagenet, pgd))
    predicted = [k % 3 for k in range(40)]
    parts = [
        part(cell(images, setting, by=model(name)), predicted, predicted)
        for name in ("one", "two")
        for images, setting in settings
    ]
    sets = [conflict, sketch, imagenet]
    single, page = (page_of(database_of(tmp_path, sets, parts[:n], str(n), measured=True)) for n in (4, 8))
    described, descriptions_of_one = (
        {spec["description"] for spec in json.loads(p.scripts[0]).values()} for p in (page, single)
    )
    for written in (page, single):
        assert "incomplete: imagenet-r is missing, stylized is missing" in written.sections["accuracy"]
        assert "40 of 50,000 images" in written.sections["accuracy"]
        assert "Every number on conflict" in written.sections["numbers"]
    assert {"Generalization: Adversarial", "Every number on conflict: shape bias"} <= described
    assert "Generalization: Concepts" not in described, "it has no value, since two of its image sets are missing"
    assert not descriptions_of_one, "of one model each chart would be one dot, and its table says the same"


def test_what_changed_between_two_versions(tmp_path: Path) -> None:
    images = image_set(20, labels=[0] * 20)
    clean = part(cell(images), [0] * 20, [0] * 20)
    lowpass = part(cell(images, condition("lowpass", cutoff=0.1)), [1] * 20, [1] * 20)
    for parts in ([clean], [clean, lowpass]):
        path = database_of(tmp_path, images, parts, "a")
    changes = changes_section(read_data(path), "a@1")[-1].text[0]
    assert "1 cell of one and the same predictions, 0 others to compare; 1 only in this study, 0 only in" in changes
    with pytest.raises(UsageError, match="a@2 would be compared with itself"):
        page_of(path, against="a")


def test_pictures_are_of_the_own_images_and_tell_their_frequencies(explored: Path) -> None:
    section = contact_sheet(read_data(explored / "results.duckdb"))
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
