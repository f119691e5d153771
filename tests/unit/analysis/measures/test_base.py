"""A measure without a number of its scope is refused where it is made, since no command would ever show it."""

from __future__ import annotations

from typing import Any

import pytest

from bandlens.analysis.measures.base import Measure, Scope


@pytest.mark.parametrize(
    ("scope", "functions", "message"),
    [
        (Scope.CONDITION, {}, "measure m: a number of scope condition has values or estimates, not none"),
        (Scope.GRID, {"values": lambda _: None}, "measure m: a number of scope grid has estimates, not values"),
        (Scope.MODELS, {"estimates": lambda *_: {}}, "measure m: a number of scope models has among, not estimates"),
    ],
)
def test_a_measure_has_a_function_of_its_scope(scope: Scope, functions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Measure("m", "a number", "share", scope, **functions)
