"""Conditions: the published grid, a study's own, and what bad parameters get."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandlens.errors import UnknownName, UsageError
from bandlens.probes.grid import PUBLISHED, make_grid

HERE = Path()


def test_the_published_grid_is_clean_22_spectral_and_29_critical_band() -> None:
    grid = make_grid(PUBLISHED, HERE)
    counts = {name: sum(c.probe == name for c in grid.conditions) for name in PUBLISHED}
    assert counts == {"clean": 1, "lowpass": 11, "highpass": 11, "critical_band": 29}
    assert len({condition.digest for condition in grid.conditions}) == 52


def test_low_and_highpass_share_a_group_and_so_their_transform() -> None:
    grid = make_grid(PUBLISHED, HERE)
    assert [len(conditions) for _, conditions in grid.groups(grid.conditions)] == [1, 22, 29]


def test_clean_is_always_there_and_conditions_are_never_double() -> None:
    grid = make_grid({"lowpass": {"cutoff": [0.5, 0.5, 0.5]}}, HERE)
    assert [str(condition) for condition in grid.conditions] == ["clean", "lowpass cutoff=0.5"]


def test_a_whole_number_is_the_same_condition_as_its_float() -> None:
    whole, real = (make_grid({"lowpass": {"cutoff": value}}, HERE).conditions for value in (1, 1.0))
    assert whole == real


@pytest.mark.parametrize(
    ("probe", "table"),
    [
        ("lowpass", "cutoff = {0}"),
        ("gaussian_highpass", "sigma = {0}"),
        ("power_law_noise", "exponent = {0}\nnoise_sd = 0.1"),
        ("pgd_linf", "eps = {0}"),
        ("pgd_linf", "band = [{0}, 0.5]"),
    ],
)
def test_zero_has_no_sign(probe: str, table: str) -> None:
    found, same = (make_grid({probe: tomllib.loads(table.format(zero))}, HERE) for zero in ("-0.0", "0"))
    assert [*found.conditions, *found.attacks][1:] == [*same.conditions, *same.attacks][1:] != []


def test_without_noise_band_and_draw_make_no_difference() -> None:
    grid = make_grid(
        {"critical_band": {"noise_sd": [0, 0.1], "frequency": [3, 4], "draw": ["shared", "independent"]}}, HERE
    )
    assert sum(c.number("noise_sd") == 0 for c in grid.conditions) == 1
    assert sum(c.probe == "critical_band" for c in grid.conditions) == 1 + 4


def test_the_grey_image_is_always_there_unless_it_is_asked_away() -> None:
    """Metrics of the critical band are relative to it."""

    def conditions(**table: object) -> list[str]:
        return [str(one) for one in make_grid({"critical_band": {"frequency": 3} | table}, HERE).conditions[1:]]

    noise = "critical_band noise_sd=0.1 frequency=3 draw=shared"
    assert conditions(noise_sd=0.1) == conditions(noise_sd=[0, 0.1]) == ["critical_band noise_sd=0.0", noise]
    assert conditions(noise_sd=0.1, grey=True) == conditions(noise_sd=0.1)
    assert conditions(noise_sd=0.1, grey=False) == [noise]
    assert conditions(noise_sd=[0, 0.1], grey=False) == conditions(noise_sd=0.1)
    asked, added = (make_grid({"critical_band": {"noise_sd": sd}}, HERE).conditions for sd in ([0, 0.1], 0.1))
    assert asked == added


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_digest_names_family_and_parameters(cutoffs: list[float]) -> None:
    probes = {"lowpass": {"cutoff": cutoffs}, "highpass": {"cutoff": cutoffs}}
    conditions = make_grid(probes, HERE).conditions
    assert len({c.digest for c in conditions}) == len(conditions) == 1 + 2 * len(set(cutoffs))
    assert conditions == make_grid(probes, HERE).conditions


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"lowpas": {}}, r"unknown probe 'lowpas'; did you mean lowpass or gaussian_lowpass\?"),
        ({"mine": {}}, "unknown probe 'mine'.*a probe of your own needs `file = "),
        ({"lowpass": {"cutof": 1}}, r"unknown parameter of probe lowpass 'cutof'; did you mean cutoff\?"),
        ({"lowpass": {"cutoff": 1.5}}, r"probe lowpass: cutoff must be a number in \[0, 1\], not 1.5"),
        ({"lowpass": {"cutoff": [0.1, -0.1]}}, r"cutoff must be a number in \[0, 1\], not -0.1"),
        ({"lowpass": {"cutoff": "0.5"}}, "cutoff must be a number"),
        ({"lowpass": {"cutoff": True}}, "cutoff must be a number"),
        ({"lowpass": {"cutoff": float("nan")}}, "cutoff must be a number"),
        ({"lowpass": {"cutoff": []}}, "cutoff is an empty list; leave it out"),
        ({"lowpass": 0.5}, r"probe lowpass must be a table of parameters, such as lowpass = \{\}, not 0.5"),
        ({"critical_band": {"frequency": 7}}, r"frequency must be a whole number in \[0, 6\], not 7"),
        ({"critical_band": {"frequency": 1.0}}, "frequency must be a whole number"),
        ({"critical_band": {"grey": "no"}}, "probe critical_band: grey must be true or false, not 'no'"),
        ({"lowpass": {"grey": False}}, "unknown parameter of probe lowpass 'grey'"),
        ({"critical_band": {"noise_sd": 2}}, r"noise_sd must be a number in \[0, 1\], not 2"),
        ({"critical_band": {"draw": "fresh"}}, "draw must be one of shared, independent, not 'fresh'"),
    ],
)
def test_bad_probes_get_one_line_that_says_what_is_allowed(probes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_grid(probes, HERE)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_its_own_kind_of_error() -> None:
    with pytest.raises(UnknownName):
        make_grid({"lowpas": {}}, HERE)
