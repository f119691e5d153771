"""Charts as files: one a panel, as wide as a journal's columns, with type that can be read there."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import altair as alt
import numpy as np
import polars as pl
import pytest
import vl_convert
from made_up_results import cell, condition, database_of, image_set, part
from PIL import Image
from reported import HOSTILE

from bandlens.app.report.build import Written, write_report
from bandlens.app.report.figures import choose_figures, write_figures
from bandlens.app.report.page import Figure
from bandlens.core.errors import UnknownName

MARGIN = 2
"""Pixels around a chart that stay empty."""


CHOICE = (
    *(
        "filters-on-photographs",
        "other-probes-on-photographs",
        "thresholds-on-photographs",
        "confidence-on-photographs-blur",
    ),
    *("band-noise-on-photographs-net-0", "band-noise-on-photographs-net-0-thresholds-and-channel", "your-models"),
    *("every-number-on-photographs-spectral-bias", "every-number-on-photographs-bandwidth"),
    *("error-consistency-with-other-models-on-photographs-critical-band-noise-sd-0-16",),
)
"""Figures of each kind, those with the longest titles among them."""


@pytest.fixture(scope="module")
def report(stored_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("report")
    return write_report(stored_study, folder / "report.html", figures=CHOICE, folder=folder / "figures")


def pictures(report: Written) -> dict[str, ET.Element]:
    return {file.stem: ET.parse(file).getroot() for file in report.figures if file.suffix == ".svg"}


def texts(picture: ET.Element) -> list[ET.Element]:
    return list(picture.iter("{http://www.w3.org/2000/svg}text"))


def is_cut(svg: str) -> bool:
    """Whether something was drawn in the margin, as what is wider than the picture would be."""
    pixels = np.asarray(Image.open(io.BytesIO(vl_convert.svg_to_png(svg))).convert("L"))
    inner = np.zeros(pixels.shape, bool)
    inner[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    return bool((pixels[~inner] < 255).any())


def test_every_panel_has_its_files_and_a_row_of_the_index(report: Written) -> None:
    endings = (".svg", ".pdf", ".png")
    stems = {ending: [file.stem for file in report.figures if file.suffix == ending] for ending in endings}
    index = pl.read_csv(report.figures[-1])
    assert stems[".svg"] == stems[".pdf"] == stems[".png"] == index["file"].to_list()
    assert {*index["file"]} == {*CHOICE[1:], *(f"{CHOICE[0]}-{probe}" for probe in ("lowpass", "highpass"))}
    assert len(list(report.figures[-1].parent.iterdir())) == len(report.figures)
    titles = dict(index.select("file", "title").rows())
    assert titles["filters-on-photographs-lowpass"] == "Filters on photographs: lowpass"
    assert titles["other-probes-on-photographs"] == "Other probes on photographs"
    assert titles["every-number-on-photographs-spectral-bias"] == "Every number on photographs: spectral bias"
    assert index.filter(file="thresholds-on-photographs")["width_in"].item() == 7
    assert index.filter(pl.col("file").str.starts_with("band-noise"))["width_in"].unique().to_list() == [3.5]


def test_pictures_are_as_wide_as_columns_and_their_type_can_be_read(report: Written) -> None:
    width = dict(pl.read_csv(report.figures[-1]).select("file", 72 * pl.col("width_in")).rows())
    for name, picture in pictures(report).items():
        assert picture.get("width") == f"{width[name]:g}pt"
        across, down = map(float, str(picture.get("viewBox")).split()[2:])
        point = width[name] / across
        assert float(str(picture.get("height")).removesuffix("pt")) == pytest.approx(down * point)
        sizes = {float(str(text.get("font-size")).removesuffix("px")) * point for text in texts(picture)}
        assert min(sizes) >= 7 - 1e-9, name
        assert max(sizes) <= 9, name
    for file in report.figures:
        if file.suffix == ".pdf":
            [box] = re.findall(rb"/MediaBox *\[([^]]*)\]", file.read_bytes())
            assert float(box.split()[2]) == pytest.approx(width[file.stem])
        if file.suffix == ".png":
            with Image.open(file) as png:
                assert png.width == pytest.approx(width[file.stem] / 72 * 300, abs=1)
                assert png.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_nothing_is_cut(report: Written) -> None:
    svgs = pictures(report)
    assert [name for name, picture in svgs.items() if any("…" in str(text.text) for text in texts(picture))] == []
    assert [name for name, picture in svgs.items() if is_cut(ET.tostring(picture, encoding="unicode"))] == []
    labels = [text.text for text in texts(svgs["filters-on-photographs-lowpass"])]
    assert HOSTILE in labels


def test_names_of_files_are_safe_and_different_whatever_a_probe_is_called(tmp_path: Path) -> None:
    images = image_set(20, labels=[0] * 20)
    probes = ["../../etc/pass wd", "etc pass_wd"]
    grid = [condition(), *(condition(probe, strength=strength) for probe in probes for strength in (1.0, 2.0))]
    database_of(
        tmp_path, images, [part(cell(images, setting), [0] * 20, [0] * 20) for setting in grid], "a", file="a.duckdb"
    )
    with pytest.raises(UnknownName, match="unknown figure 'curve'"):
        write_report(tmp_path / "a.duckdb", tmp_path / "a.html", figures=["curve"], folder=tmp_path / "figures")
    assert [file.name for file in tmp_path.iterdir()] == ["a.duckdb"], "nothing is made for a name that is wrong"
    report = write_report(tmp_path / "a.duckdb", tmp_path / "a.html", figures=["all"], folder=tmp_path / "figures")
    assert {file.parent for file in report.figures} == {tmp_path / "figures"}
    names = {file.name for file in report.figures}
    assert {"other-probes-on-set-etc-pass-wd.svg", "other-probes-on-set-etc-pass-wd-2.svg"} <= names


def test_figures_are_chosen_by_the_names_of_their_files() -> None:
    panel = alt.Chart(pl.DataFrame({"x": [1]})).mark_point().encode(x="x:Q")
    filters = Figure("curves-1", "Filters on a|b", [], {"lowpass": panel, "highpass": panel}, 2, pl.DataFrame())
    hostile = Figure("blur-1", "blur on \u202egnp.exe", [], {"blur": panel}, 2, pl.DataFrame())

    def choose(*names: str) -> list[str]:
        return [file.name for file in choose_figures([filters, hostile], names)]

    assert choose() == []
    assert choose("filters-on-a-b-highpass") == ["filters-on-a-b-highpass"]
    assert choose("blur-on-gnp-exe", "filters-on-a-b") == [
        "filters-on-a-b-lowpass", "filters-on-a-b-highpass", "blur-on-gnp-exe"
    ]  # fmt: skip
    assert choose("all") == choose("filters-on-a-b", "blur-on-gnp-exe")
    with pytest.raises(UnknownName) as error:
        choose("blur-on-gnp-exe", "filters-on-ab\u202e")
    assert str(error.value) == (
        "unknown figure 'filters-on-ab\\u202e'; did you mean filters-on-a-b or filters-on-a-b-lowpass or "
        "filters-on-a-b-highpass?; `--figures all` writes each, and figures.csv lists them"
    )


@pytest.mark.parametrize("text", ["file,width_in\nmine,3.5\n", "\0\xff"])
def test_a_list_that_no_report_wrote_removes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "figures.csv").write_text(text, encoding="latin-1")
    (tmp_path / "mine.svg").touch()
    assert write_figures([], tmp_path, lambda _: None) == [tmp_path / "figures.csv"]
    assert (tmp_path / "mine.svg").exists()
