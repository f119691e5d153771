"""The layout of tables: numbers and states stay whatever the width, and different names stay different."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bandlens.app.layout import SHORTEST, SHORTEST_KEY, TableLayout, columns_of, draw, join_intervals, lay_out, wrap

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


def blocks_of(layout: TableLayout) -> list[Table]:
    return [{name: list(cells) for name, cells in block.items()} for _, blocks in layout.parts for block in blocks]


def width_of(block: Table) -> int:
    lines = [[line for cell in cells for line in cell.split("\n")] for cells in block.values()]
    return 1 + sum(3 + max(map(len, [name, *column])) for name, column in zip(block, lines, strict=True))


@given(table=tables(), width=st.integers(60, 150), titles=st.sampled_from([(), ("name0",)]))
def test_every_number_and_state_is_in_its_row_or_said_of_all_rows(
    table: Table, width: int, titles: Sequence[str]
) -> None:
    layout = lay_out(table, width, titles)
    for name in [name for name in table if name.startswith(("number", "state"))]:
        # The columns that name rows, which may be numbers, stand in every block.
        cells = [cell for _, blocks in layout.parts for cell in next((b[name] for b in blocks if name in b), ())]
        if name in layout.repeated:
            assert {layout.repeated[name]} == set(table[name])
        else:
            assert sorted(filter(is_number, cells)) == sorted(filter(is_number, table[name]))


def is_number(cell: str) -> bool:
    return cell != "-"


@given(table=tables(), width=st.integers(60, 150), titles=st.sampled_from([(), ("name0",)]))
def test_no_line_is_wider_than_the_terminal(table: Table, width: int, titles: Sequence[str]) -> None:
    assert all(width_of(block) <= width for block in blocks_of(lay_out(table, width, titles)))


@given(table=tables(), width=st.integers(20, 150))
def test_every_column_is_shown_or_said_of_all_rows(table: Table, width: int) -> None:
    layout = lay_out(table, width)
    shown = {name for block in blocks_of(layout) for name in block}
    assert shown | set(layout.repeated) == set(table)
    assert not shown & {*layout.repeated}


@given(texts=st.lists(TEXTS, min_size=1, max_size=6), longest=st.integers(SHORTEST_KEY, 40))
def test_texts_stay_whole_and_lines_are_short(texts: list[str], longest: int) -> None:
    wrapped = wrap(texts, longest)
    assert [re.sub(r"\s", "", text) for text in wrapped] == [text.replace(" ", "") for text in texts]
    assert all(len(line) <= longest for text in wrapped for line in text.split("\n"))


def test_a_table_that_fits_is_left_as_it_is() -> None:
    table = {"checkpoint": ["a", "b"], "value": ["1", "2"], "low": ["0", "1"], "high": ["2", "3"], "note": ["-", "-"]}
    assert lay_out(table, 80) == TableLayout([("", [table])])


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


def test_a_condition_has_24_characters_and_no_names_of_parameters() -> None:
    conditions = [f"critical_band noise_sd={noise}, frequency={k}" for noise in (0.02, 0.16) for k in range(7)]
    table = {"condition": conditions, **{f"value{k}": [f"{n}.{k}" for n in range(14)] for k in range(5)}}
    [block] = blocks_of(lay_out(table, 80))
    assert block["condition"] == [re.sub(r"\w+=", "", condition) for condition in conditions]
    assert max(map(len, block["condition"])) <= SHORTEST


def test_parameters_keep_their_names_where_values_alone_say_nothing() -> None:
    texts = ["blur wide=1, a_long_parameter=2", "blur narrow=1, a_long_parameter=2"]
    assert [text.replace("\n", " ") for text in wrap(texts, SHORTEST, "condition")] == texts


def test_a_cut_loses_its_unit_where_it_has_no_room() -> None:
    cuts = ["clean", "highpass above 100 cycles/image", "lowpass below 3 cycles/image"]
    assert wrap(cuts, SHORTEST, "condition") == ["clean", "highpass above 100", "lowpass below 3"]
    assert wrap(cuts, 40, "note") == cuts


def test_numbers_without_room_continue_below_under_the_same_names() -> None:
    table = {"checkpoint": [NAME.format(k) for k in (1, 2)]}
    table |= {f"number{k}": [f"{k}.25", f"{k}.75"] for k in range(9)}
    blocks = blocks_of(lay_out(table, 80))
    assert [list(block) for block in blocks] == [
        ["checkpoint", *(f"number{k}" for k in range(5))],
        ["checkpoint", *(f"number{k}" for k in range(5, 9))],
    ]
    assert all(block["checkpoint"][0] != block["checkpoint"][1] for block in blocks)


def test_titles_are_headings_where_names_take_the_room_of_numbers() -> None:
    table = {
        "checkpoint": [NAME.format(k) for k in (1, 1, 2, 2)],
        "image_set": ["imagenet-val", "-", "imagenet-val", "-"],
        "metric": ["critical_peak_noise_sensitivity_raw", "top1_mean"] * 2,
        **{name: ["12345.678", "2", "3", "4"] for name in ("value", "low", "high")},
        "state": ["degenerate", "ok", "ok", "ok"],
        "note": ["the peak is at its bound", "-", "-", "-"],
    }
    layout = lay_out(table, 80, ("checkpoint", "image_set"))
    assert [heading for heading, _ in layout.parts] == [
        *(f"{NAME.format(1)}{end}" for end in (", imagenet-val", "")),
        *(f"{NAME.format(2)}{end}" for end in (", imagenet-val", "")),
    ]
    first, second = blocks_of(layout)[:2]
    assert (first["value [low, high]"], first["state"]) == (["12345.678 [12345.678, 12345.678]"], ["degenerate"])
    assert (list(second), second["note"]) == (["metric", "note"], ["the peak is at its bound"])
    assert ["note" in block for block in blocks_of(layout)] == [False, True, False, False, False]


def test_columns_that_say_nothing_new_go_first() -> None:
    table = {"study": ["mine", "mine"], "none": ["-", "-"], "text": ["x" * 40, "y" * 40], "value": ["1", "2"]}
    layout = lay_out(table, 55)
    assert layout.repeated == {"none": "-", "study": "mine"}
    assert blocks_of(layout) == [{"text": ["x" * 40, "y" * 40], "value": ["1", "2"]}]


def test_an_interval_of_dashes_alone_is_named_once_by_its_joined_name() -> None:
    names = ("checkpoint", "metric", "value", "low", "high", "state")
    rows = [("efficientnet_lite0", f"psychometric_bandwidth_{k}", "-", "-", "-", "undetermined") for k in range(3)]
    layout = lay_out(dict(zip(names, (list(cells) for cells in zip(*rows, strict=True)), strict=True)), 40)
    assert layout.repeated["value [low, high]"] == "-"


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
