"""Tables on a terminal: what fits, and what is said of the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bandlens.app.console import fitting


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
    shown, note = fitting(cells, width)
    assert shown
    assert shown == [name for name in cells if name in shown]
    gone = [name for name in cells if name not in shown]
    assert bool(gone) == bool(note)
    assert [part.partition(" = ")[0] for part in note.split(", ")] == (gone or [""])
    needed = sum(3 + max(map(len, (name, *cells[name]))) for name in shown) + 1
    assert needed <= width or len(shown) == 1
