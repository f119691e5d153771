"""The bands of attacks: how they are written, and which sizes take them. What attacks do is in engine/backends."""

from __future__ import annotations

import pytest

from bandlens.probes.attacks import PGD_ANY, PGD_LINF, band_of, gradients_of
from bandlens.probes.family import Family


@pytest.mark.parametrize("family", [PGD_LINF, PGD_ANY], ids=lambda family: family.name)
def test_a_band_that_lets_all_pass_is_the_condition_without_one(family: Family) -> None:
    conditions = family.conditions({})
    assert family.conditions({"band": [0, 1]}) == family.conditions({"band": [[0.0, 1.0]]}) == conditions
    assert [name for name, _ in conditions[0].parameters] == ["eps", "step", "steps"]
    assert band_of(conditions[0]) == (0, 1)


def test_gradients_in_fp32_are_the_condition_without_any() -> None:
    fp32, bf16 = PGD_ANY.conditions({"gradients": ["fp32", "bf16"]})
    assert [fp32] == PGD_ANY.conditions({})
    assert [gradients_of(condition) for condition in (fp32, bf16)] == ["fp32", "bf16"]
    assert bf16.digest != fp32.digest


def test_one_band_and_several() -> None:
    (condition,) = PGD_LINF.conditions({"band": [0, 0.3]})
    assert band_of(condition) == (0, 0.3)
    several = PGD_LINF.conditions({"band": [[0, 0.3], [0.3, 1], [0, 1]]})
    assert [band_of(condition) for condition in several] == [(0, 0.3), (0.3, 1), (0, 1)]
    assert PGD_LINF.conditions(dict(condition.parameters)) == [condition], (
        "what a database keeps names the same condition"
    )
