"""The layout of tables: numbers and states stay whatever the width, and different names stay different."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bandlens.app.cli.table_layout import columns_of, draw, fill, join_intervals, lay_out

Table = dict[str, list[str]]
NAME = "efficientnet_lite0_of_30_lett{}"
NUMBERS = st.sampled_from(["0", "-0.25", "1234", "1.13e+04", "-2.141e-47", "-"])
TEXTS = st.from_regex(r"[ab.]{1,40}|[ab]{1,9}( [ab]{1,9}){1,4}", fullmatch=True)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A table of names, numbers, states and notes."""
    count = draw(st.integers(1, 5))

    def column(texts: st.SearchStrategy[str]) -> list[str]:
        return draw(st.lists(texts, min_size=count, max_size=count))

    table = {f"name{k}": column(TEXTS) for k in range(draw(st.integers(0, 3)))}
    table |= {f"number{k}": column(NUMBERS) for k in range(draw(st.integers(1, 8)))}
    if draw(st.booleans()):
        table |= {"state": column(st.sampled_from(["ok", "degenerate", "no_interval"])), "note": column(TEXTS)}
    return table


def lines_of(table: Table, width: int, titles: Sequence[str] = ()) -> list[str]:
    numeric = [name for name in table if name.startswith("number")]
    return "\n\n".join(lay_out(table, numeric, width, titles=titles)).split("\n")


@given(table=tables(), width=st.integers(60, 150), titles=st.sampled_from([(), ("name0",)]))
def test_every_number_and_state_is_shown_or_said_of_all_rows(table: Table, width: int, titles: Sequence[str]) -> None:
    lines = lines_of(table, width, titles)
    assert max(map(len, lines)) <= width, "no line is wider than the terminal"
    words = re.findall(r"[^\s,]+", "\n".join(lines))
    for name in [name for name in table if name.startswith(("number", "state"))]:
        assert name in words
        cells = table[name] if len(set(table[name])) > 1 else table[name][:1]
        for cell in {*cells} - {"-"}:
            assert words.count(cell) >= cells.count(cell)


@given(text=TEXTS, width=st.integers(8, 40))
def test_texts_stay_whole_and_lines_are_short(text: str, width: int) -> None:
    lines = fill(text, width)
    assert re.sub(r"\s", "", lines) == text.replace(" ", "")
    assert all(len(line) <= width for line in lines.split("\n"))


def test_an_interval_is_joined_to_its_own_value() -> None:
    table = {
        "n": ["9", "9"], "value": ["0.5", "0.7"], "low": ["0.4", "-"], "high": ["0.6", "-"],
        "top5": ["1", "1"], "flips": ["2", "3"], "flips_low": ["1", "2"], "flips_high": ["4", "5"],
    }  # fmt: skip
    assert join_intervals(table) == {
        "n": ["9", "9"],
        "value [low, high]": ["0.5 [0.4, 0.6]", "0.7"],
        "top5": ["1", "1"],
        "flips [low, high]": ["2 [1, 4]", "3 [2, 5]"],
    }
    unlike = {name: ["1"] for name in ("top5", "low", "high", "spread_low", "spread_high")}
    assert join_intervals(unlike) == unlike, "no value that these are the ends of"


def test_titles_are_headings_where_names_take_the_room_of_numbers() -> None:
    table = {
        "checkpoint": [NAME.format(k) for k in (1, 1, 2, 2)],
        "image_set": ["imagenet-val", "-", "imagenet-val", "-"],
        "metric": ["critical_peak_noise_sensitivity_raw", "top1_mean"] * 2,
        **{name: ["12345.678", "2", "3", "4"] for name in ("value", "low", "high")},
        "state": ["degenerate", "ok", "ok", "ok"],
        "note": ["the peak is at its bound", "-", "-", "-"],
    }
    parts = list(lay_out(table, (), 80, titles=("checkpoint", "image_set")))
    assert [part for part in parts if part.startswith("efficientnet")] == [
        *(f"{NAME.format(1)}{end}" for end in (", imagenet-val", "")),
        *(f"{NAME.format(2)}{end}" for end in (", imagenet-val", "")),
    ]
    assert "12345.678 [12345.678, 12345.678]   degenerate" in parts[1]
    assert ["note" in part for part in parts] == [place == 2 for place in range(len(parts))]


def test_numbers_stand_at_the_right_and_a_cell_may_have_lines() -> None:
    block = {"name": ["one\ntwo", "three"], "a number": ["1", "-2.5"]}
    assert draw(block, ["a number"]).split("\n") == [
        "  name    a number",
        " ──────────────────",
        "  one            1",
        "  two",
        "  three       -2.5",
    ]


def test_wide_letters_take_two_columns_and_accents_none() -> None:
    assert [columns_of(text) for text in ("狐狸", "é", "e\u0301", "[gpu] :smile:")] == [4, 1, 1, 13]
    assert draw({"a": ["狐狸", "fox"], "b": ["x", "y"]}, ()).split("\n")[2:] == ["  狐狸   x", "  fox    y"]
