"""Conditions: a study's own, and what bad parameters get."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import refusal

from bandlens.core.errors import UnknownName, UsageError
from bandlens.core.records import Condition
from bandlens.probes.grid import make_grid, setting_in_words

ROOT = Path()


def test_clean_is_always_there_and_conditions_are_never_double() -> None:
    grid = make_grid({"lowpass": {"cutoff": [0.5, 0.5, 0.5]}}, ROOT)
    assert [str(condition) for condition in grid.conditions] == ["clean", "lowpass cutoff=0.5"]


@pytest.mark.parametrize(
    ("probe", "table"), [("lowpass", "cutoff = {0}"), ("pgd_linf", "eps = {0}"), ("pgd_linf", "band = [{0}, 0.5]")]
)
def test_zero_has_no_sign(probe: str, table: str) -> None:
    negative, positive = (make_grid({probe: tomllib.loads(table.format(zero))}, ROOT) for zero in ("-0.0", "0"))
    assert [*negative.conditions, *negative.attacks][1:] == [*positive.conditions, *positive.attacks][1:] != []


def test_the_grey_image_is_always_there_unless_it_is_asked_away() -> None:
    """Metrics of the critical band are relative to it."""

    def conditions(**table: object) -> list[str]:
        return [
            str(condition) for condition in make_grid({"critical_band": {"frequency": 3} | table}, ROOT).conditions[1:]
        ]

    noise = "critical_band noise_sd=0.1, frequency=3"
    assert conditions(noise_sd=0.1) == conditions(noise_sd=[0, 0.1]) == ["critical_band noise_sd=0", noise]
    assert conditions(noise_sd=0.1, grey=True) == conditions(noise_sd=0.1)
    assert conditions(noise_sd=0.1, grey=False) == [noise]
    assert conditions(noise_sd=[0, 0.1], grey=False) == conditions(noise_sd=0.1)
    assert conditions(noise_sd=0, frequency=[3, 4], draw=["shared", "independent"]) == ["critical_band noise_sd=0"]
    explicit, default = (make_grid({"critical_band": {"noise_sd": sd}}, ROOT).conditions for sd in ([0, 0.1], 0.1))
    assert explicit == default


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_digest_names_family_and_parameters(cutoffs: list[float]) -> None:
    probes = {"lowpass": {"cutoff": cutoffs}, "highpass": {"cutoff": cutoffs}}
    conditions = make_grid(probes, ROOT).conditions
    assert len({c.digest for c in conditions}) == len(conditions) == 1 + 2 * len(set(cutoffs))
    assert conditions == make_grid(probes, ROOT).conditions


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"lowpas": {}}, r"unknown probe 'lowpas'; did you mean lowpass\?"),
        ({"gray": {}}, "unknown probe 'gray'; `bandlens probes list` has all; "),
        ({"mine": {}}, "unknown probe 'mine'.*a probe of your own needs `file = "),
        ({"lowpass": {"cutof": 1}}, r"unknown parameter of probe lowpass 'cutof'; did you mean cutoff\?"),
        ({"lowpass": {"cutoff": 1.5}}, r"probe lowpass: cutoff must be a number in \[0, 1\], not 1.5"),
        ({"lowpass": {"cutoff": True}}, "cutoff must be a number"),
        ({"lowpass": {"cutoff": float("nan")}}, "cutoff must be a number"),
        ({"lowpass": {"cutoff": []}}, "cutoff is an empty list; leave it out"),
        ({"cutoff": [0.5]}, r"cutoff is no probe, but a parameter, as in lowpass = \{ cutoff = … \}"),
        ({"lowpass": 0.5}, r"probe lowpass must be a table of parameters, such as lowpass = \{\}, not 0.5"),
        ({"critical_band": {"frequency": 7}}, r"frequency must be a whole number in \[0, 6\], not 7"),
        ({"critical_band": {"grey": "no"}}, "probe critical_band: grey must be true or false, not 'no'"),
        ({"critical_band": {"draw": "fresh"}}, "draw must be one of shared, independent, not 'fresh'"),
        ({"gaussian_highpass": {"sigma": "wide"}}, r'sigma must be a number in \[0, 1000\] or "inf", not \'wide\''),
        ({"octaves": {"keep": "00"}}, 'keep must be the digits of the octaves .* such as "0123"'),
        ({"bandpass": {"edges": [3, 3]}}, r"edges must be \[low, high\] in whole cycles per image"),
        ({"bandpass": {"edges": [[3, 7], [9, 8]]}}, r"edges must be \[low, high\] in whole cycles per image"),
        ({"pgd_linf": {"band": [0.3, 0.3]}}, r"band must be \[low, high\] with 0 <= low < high <= 1, not"),
        ({"pgd_linf": {"gradients": "tf32"}}, "gradients must be one of fp32, bf16, not 'tf32'"),
    ],
)
def test_bad_probes_get_one_line_that_says_what_is_allowed(probes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make_grid(probes, ROOT)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, UnknownName) == ("unknown" in message)


SOURCE = "def blur(images, sigma, times=1, mode='reflect'):\n    return images\n"


def blurs(folder: Path, **table: Any) -> list[Condition]:
    (folder / "blur.py").write_text(SOURCE, encoding="utf-8")
    return list(make_grid({"blur": {"file": "blur.py"} | table}, folder).conditions[1:])


def test_a_probe_of_ones_own_is_drawn_over_its_axis_or_the_first_number_that_varies(tmp_path: Path) -> None:
    both = [condition.facts for condition in blurs(tmp_path, sigma=[1, 2.5], times=[1, 2])]
    assert [(facts.x_title, facts.x, facts.series) for facts in both] == [
        ("sigma", sigma, f"times={times}, mode=reflect") for sigma in (1, 2.5) for times in (1, 2)
    ]
    assert {condition.facts.x_title for condition in blurs(tmp_path, sigma=1, times=[1, 2])} == {"times"}
    several = blurs(tmp_path, sigma=[1, 2.5])
    assert [condition.facts.setting for condition in several] == [
        f"sigma={sigma}, times=1, mode=reflect" for sigma in ("1", "2.5")
    ]
    over_times = blurs(tmp_path, sigma=[1, 2.5], times=[1, 2], axis="times")
    assert [(condition.facts.x, condition.facts.x_title, condition.facts.series) for condition in over_times] == [
        (times, "times", f"sigma={sigma}, mode=reflect") for sigma in ("1", "2.5") for times in (1, 2)
    ]
    over_number = blurs(tmp_path, sigma=[1, 2.5], times="once")
    assert [(condition.facts.x, condition.facts.series) for condition in over_number] == [
        (1, "times=once, mode=reflect"),
        (2.5, "times=once, mode=reflect"),
    ]
    [on_map] = blurs(tmp_path, sigma=3, times=4, axis=["sigma", "times"])
    assert (on_map.facts.x, on_map.facts.y, on_map.facts.y_title) == (3, 4, "times")
    assert over_times[0].digest == several[0].digest, "an axis is no part of what a condition is"


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("sigm", "unknown axis of probe blur 'sigm'; did you mean sigma?; an axis is a parameter of the probe"),
        ("mode", "probe blur: axis mode has the value 'reflect'; name a parameter of numbers alone"),
        (["sigma", "width"], "unknown axis of probe blur 'width'; known: "),
        (3, "probe blur: axis must be a parameter, or a list of two for a map, not 3"),
    ],
)
def test_an_axis_that_is_none_is_one_line(tmp_path: Path, axis: object, message: str) -> None:
    assert refusal(blurs, tmp_path, sigma=1, axis=axis).startswith(message)


def test_words_leave_out_a_hidden_parameter_unless_it_differs() -> None:
    table = {"noise_sd": 0.1, "frequency": 3, "draw": ["shared", "independent"], "grey": False}
    conditions = make_grid({"critical_band": table}, ROOT).conditions[1:]
    assert [condition.facts.setting for condition in conditions] == [
        "noise_sd=0.1, frequency=3",
        "noise_sd=0.1, frequency=3, draw=independent",
    ]
    assert setting_in_words("critical_band", dict(conditions[0].parameters)) == conditions[0].facts.setting
