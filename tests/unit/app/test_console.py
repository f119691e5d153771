"""Tables on a terminal: what fits, and what is said of the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from made_up_results import python
from terminals import on_a_terminal

from bandlens.app.console import fitting

TABLE = """
import sys
from bandlens.app.console import print_lines, print_rows
rows = [{"study": "mine", "checkpoint": f"net{k}", "parameters": '{"a": %d}' % k, "none": None,
         **{f"value{n}": k + n / 7 for n in range(12)}} for k in range(3)]
(print_lines if "--line" in sys.argv else print_rows)(rows)
"""


def table(*words: str, columns: int = 80) -> list[str]:
    return on_a_terminal(python(TABLE, *words), columns)


def test_a_row_is_one_line_and_the_rest_is_named() -> None:
    shown_lines = table()
    first = next(place for place, line in enumerate(shown_lines) if line.startswith("left out"))
    rows, said = shown_lines[:first], " ".join(shown_lines[first:])
    assert all(len(line) <= 80 for line in shown_lines)
    assert [line.split()[0] for line in rows if "net" in line] == ["net0", "net1", "net2"]
    assert said.startswith("left out for width: study = mine, parameters, none, value")
    assert said.endswith("; --json shows all")
    shown = set(rows[0].split())
    assert "checkpoint" in shown
    assert shown | set(said.replace(",", "").replace(";", "").split()) >= {f"value{n}" for n in range(12)}


def test_a_wide_terminal_shows_everything() -> None:
    assert not [line for line in table(columns=300) if "left out" in line]


def test_lines_show_every_field() -> None:
    shown = table("--line")
    assert shown[:2] == ["study       mine", "checkpoint  net0"]
    assert len(shown) == 3 * 16 + 2


def test_an_interval_goes_with_both_of_its_ends() -> None:
    cells = {name: ["x" * 8, "y"] for name in ("top1", "low", "high", "flips_low", "flips_high")}
    assert fitting(cells, 5 * 11 + 1 + 5)[0] == list(cells)
    assert fitting(cells, 4 * 11 + 5) == (["top1", "low", "high"], "flips_low, flips_high")
    assert fitting(cells, 2 * 11 + 5) == (["top1"], "low, high, flips_low, flips_high")


@given(
    cells=st.dictionaries(
        st.text("abc", min_size=1, max_size=9), st.lists(st.text("x{-", max_size=30), min_size=2, max_size=2),
        min_size=1, max_size=9,
    ),
    width=st.integers(1, 120),
)  # fmt: skip
def test_every_column_is_shown_or_named(cells: dict[str, list[str]], width: int) -> None:
    shown, said = fitting(cells, width)
    assert shown
    assert shown == [name for name in cells if name in shown]
    gone = [name for name in cells if name not in shown]
    assert bool(gone) == bool(said)
    assert [part.partition(" = ")[0] for part in said.split(", ")] == (gone or [""])
    needed = sum(3 + max(map(len, (name, *cells[name]))) for name in shown) + 1
    assert needed <= width or len(shown) == 1
