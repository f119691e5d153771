from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandlens.errors import amount


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (899_000, "899 kB"), (3_906_000, "3.91 MB"), (999_600_000, "1 GB")],
)
def test_bytes_have_the_unit_that_fits(count: int, text: str) -> None:
    assert amount(count) == text


@given(st.integers(0, 10**14))
def test_bytes_are_said_to_three_digits_without_an_exponent(count: int) -> None:
    number, unit = amount(count).split()
    assert "e" not in number
    assert float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit) == pytest.approx(count, rel=0.005)
