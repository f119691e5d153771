"""Tables that leave the terminal: other readers of CSV, JSON and Markdown get every cell, and LaTeX no command."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bandlens.analysis.database.spreadsheet import spreadsheet_csv
from bandlens.app.cli.console import listen
from bandlens.app.cli.tables import (
    Format,
    csv_text,
    json_text,
    junit_text,
    paper_text,
    print_document,
    print_rows,
    print_tables,
)
from bandlens.core.untrusted import printable

HOSTILE = [
    "a|b", "a\\|b", "two\nlines", "\u202egnp.exe", r"\input{/etc/passwd}", "50 % & $x_1^2$ ~ #1 {}", "[0.2]", "*",
    "`x` *y*", "_z_ __a__ b_c", "&lt;", "![d](e)", "<script>", "\x1b[31m", "=1+1",
    'a "quoted", text', "carriage\rreturn",
]  # fmt: skip
"""Names that a format, a terminal or a spreadsheet would take for something else."""
ROWS: list[dict[str, Any]] = [
    {"model": name, "value": 0.123456789 + k, "low": 0.1, "high": 1.23456, "n": 12345, "note": None}
    for k, name in enumerate(HOSTILE)
]
SPECIAL = re.compile(r"(?<!\\)[%$#_&{}~^]|\\(?![%$#_&{}\\^]|textbackslash\{\}|textasciitilde\{\}|ensuremath\{[<>]\})")
"""The signs that LaTeX obeys in a cell; after a backslash, those alone that stand for a sign are none of them."""


def cells_of_markdown(text: str) -> list[list[str]]:
    """The text of each cell as a browser shows it, by a parser of Markdown that bandlens does not use."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for token, content in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("th_open", "td_open"):
            kinds = {child.type for child in content.children or []}
            assert kinds <= {"text", "text_special"}, content.content
            rows[-1].append("".join(child.content for child in content.children or []))
    return rows


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_json_has_neither_nan_nor_infinities() -> None:
    """Parsers other than Python's take none of them."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    value = {"peaks": [{"setting": float("inf"), "low": (1.5, float("nan"))}], "n": 3}
    expected = {"peaks": [{"setting": "inf", "low": [1.5, None]}], "n": 3}
    assert json.loads(json_text(value), parse_constant=refuse) == expected


def test_csv_keeps_every_digit_and_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, Format.csv)
    text = capsys.readouterr().out
    by_csv = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["model"] for row in by_csv] == ["'=1+1" if name == "=1+1" else name for name in HOSTILE]
    assert [float(row["value"]) for row in by_csv] == [row["value"] for row in ROWS]
    by_polars = pl.read_csv(io.StringIO(text))
    assert by_polars.columns == [*ROWS[0]]
    assert by_polars["value"].to_list() == [row["value"] for row in ROWS]


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_texts_that_a_spreadsheet_would_run_begin_with_an_apostrophe_in_csv(text: str) -> None:
    [row] = csv.DictReader(io.StringIO(csv_text([{"name": text, "value": -1.5, "number": "-1e-3"}]), newline=""))
    assert row == {"name": f"'{text}", "value": "-1.5", "number": "-1e-3"}


def test_categories_and_names_of_columns_that_a_spreadsheet_would_run_begin_with_an_apostrophe_too() -> None:
    texts = {"=a": pl.Series(["=1+1"], dtype=pl.Enum(["=1+1"])), "-1": pl.Series(["@x"], dtype=pl.Categorical)}
    assert spreadsheet_csv(pl.DataFrame(texts)) == "'=a,-1\n'=1+1,'@x\n"


@pytest.mark.parametrize("text", [*HOSTILE, "\0", "\ud800", "\ufffe\uffff", "]]>", "\x85\u2028"])
def test_names_of_any_signs_are_well_formed_junit(text: str) -> None:
    page = junit_text(text, {text: [(text, "fail", text)]})
    root = ElementTree.fromstring(page.encode())
    assert root.get("name") == printable(text)


def test_lists_and_truth_are_json_in_csv() -> None:
    row = {"files": ["a.py", "b.py"], "determined": True, "maps": {"x": 3}}
    [cells] = csv.DictReader(io.StringIO(csv_text([row | {"why": None}])))
    assert cells.pop("why") == ""
    assert {name: json.loads(text) for name, text in cells.items()} == row


def test_markdown_shows_names_as_they_are_and_four_digits() -> None:
    head, *cells = cells_of_markdown(paper_text(columns_of(ROWS), "markdown"))
    assert head == ["model", "value [low, high]", "n", "note"]
    assert cells[0] == ["a|b", "0.1235 [0.1, 1.235]", "12345", "-"]
    texts = {"two\nlines": "two lines", "\u202egnp.exe": "\\u202egnp.exe", "\x1b[31m": "\\x1b[31m"}
    texts |= {"carriage\rreturn": "carriage\\rreturn"}
    assert [row[0] for row in cells] == [texts.get(name, name) for name in HOSTILE]


@given(st.lists(st.text("ab|\\`*<>_[]()!&; \n\u202e", max_size=8), min_size=1, max_size=4))
def test_markdown_has_a_cell_for_each_value_whatever_it_is(names: list[str]) -> None:
    rows = cells_of_markdown(paper_text({"model": names, "n": list(range(len(names)))}, "markdown"))
    assert [row[-1] for row in rows] == ["n", *map(str, range(len(names)))]
    assert {len(row) for row in rows} == {2}


def test_latex_has_no_command_of_a_name() -> None:
    lines = paper_text(columns_of(ROWS), "latex", "50 % of x_1").splitlines()
    assert lines[:4] == ["\\begin{table}", "\\caption{50 \\% of x\\_1}", "\\begin{tabular}{lrrr}", "\\toprule"]
    assert lines[5] == "\\midrule"
    assert lines[-3:] == ["\\bottomrule", "\\end{tabular}", "\\end{table}"]
    rows = lines[6:-3]
    assert len(rows) == len(HOSTILE)
    for row in rows:
        assert row.endswith(" \\\\")
        cells = re.split(r"(?<!\\)&", row.removesuffix("\\\\"))
        assert len(cells) == 4
        assert not re.match(r"\s*[\[*]", row), "LaTeX would take it for an argument of the row before"
        name = re.sub(r"^ *\{([\[*])\}", r" \1", cells[0])
        for sign in (r"\textbackslash{}", r"\textasciitilde{}", r"\^{}", r"\ensuremath{<}", r"\ensuremath{>}"):
            name = name.replace(sign, "")
        assert not SPECIAL.search(name), name
        assert name.isprintable()
    assert "-0.1 [" not in rows[0]
    assert "0.1235 [0.1, 1.235]" in rows[0]


def test_a_negative_number_has_a_minus_in_latex() -> None:
    columns = {"name": ["a-1"], "value": [-0.25], "low": [-0.5], "high": [-7.5e-06], "n": [None]}
    row = paper_text(columns, "latex").splitlines()[4]
    assert re.sub(" +", " ", row) == r" a-1 & $-$0.25 [$-$0.5, $-$7.5e-06] & - \\"


def test_a_long_text_is_a_paragraph_in_latex() -> None:
    columns = {"value": [0.5, None], "state": ["ok", "missing"], "note": ["-", "it lacks conditions; " * 20]}
    assert r"\begin{tabular}{rlp{60mm}}" in paper_text(columns, "latex")


def test_a_table_without_rows_has_its_columns() -> None:
    table: dict[str, list[Any]] = {"model": [], "n": []}
    assert "\\begin{tabular}{ll}" in paper_text(table, "latex")
    assert cells_of_markdown(paper_text(table, "markdown")) == [["model", "n"]]


def test_several_tables_are_headings_captions_an_object_or_one_csv(capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"Cells: a|b": [{"model": "x", "n": 1}], "Curves": [{"model": "y", "area": 0.5}]}

    def read_output(table_format: Format) -> str:
        print_tables(tables, table_format)
        return capsys.readouterr().out

    assert re.findall("^## (.*)", read_output(Format.markdown), re.MULTILINE) == ["Cells: a\\|b", "Curves"]
    assert re.findall(r"caption\{(.*)\}", read_output(Format.latex)) == ["Cells: a|b", "Curves"]
    assert json.loads(read_output(Format.json)) == tables
    assert pl.read_csv(io.StringIO(read_output(Format.csv))).rows() == [
        ("Cells: a|b", "x", 1, None), ("Curves", "y", None, 0.5)
    ]  # fmt: skip


def test_what_is_no_table_of_a_document_is_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"study": "mine", "cells": 3, "failed": [{"cell": "c", "error": "e"}], "doubts": ["a doubt"], "none": []}
    print_document(document, Format.json)
    assert json.loads(capsys.readouterr().out) == document
    print_document(document, Format.csv)
    frame = pl.read_csv(io.StringIO(capsys.readouterr().out))
    assert frame.columns == ["table", "study", "cells", "cell", "error", "doubts"]
    assert frame.rows() == [
        ("summary", "mine", 3, None, None, None), ("failed", None, None, "c", "e", None),
        ("doubts", None, None, None, None, "a doubt"),
    ]  # fmt: skip


@pytest.mark.parametrize("table_format", [Format.csv, Format.markdown, Format.latex])
def test_nothing_is_said_beside_an_empty_file(table_format: Format, capsys: pytest.CaptureFixture[str]) -> None:
    listen()
    print_rows([], table_format)
    assert capsys.readouterr() == ("", "(nothing)\n")
