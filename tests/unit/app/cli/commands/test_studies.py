"""`bandlens power` and the function of its name."""

from __future__ import annotations

import json

import pytest
from small import refusal
from typer.testing import CliRunner

import bandlens
from bandlens.app.cli.main import app


def ask(*words: object) -> dict[str, list[dict[str, float]]]:
    result = CliRunner().invoke(app, ["power", *map(str, words), "--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0
    answer: dict[str, list[dict[str, float]]] = json.loads(result.stdout)
    return answer


def test_a_difference_needs_the_images_that_would_show_it() -> None:
    by_interval, by_test = ask("--difference", 0.03, "--discordance", 0.25)["images"]
    assert by_interval["images"] == 2181
    assert by_interval["by_interval"] <= 0.03 < by_interval["by_test"]
    assert by_test["images"] > 2181
    assert by_test["by_test"] <= 0.03


def test_it_answers_for_the_numbers_that_are_asked_for_and_else_for_usual_ones() -> None:
    answer = ask("--images", 1000, "--images", 5000)
    assert [round(100 * row["by_interval"], 2) for row in answer["images"]] == [2.80, 1.25]
    assert "models" not in answer
    [by_count, by_pearson, by_spearman] = ask("--models", 48, "--correlation", -0.2)["models"]
    assert 0.39 < by_count["pearson"] < 0.395 < by_count["spearman"] < 0.40
    assert by_pearson["pearson"] <= 0.2 < by_pearson["spearman"]
    assert by_spearman["spearman"] <= 0.2
    assert by_spearman["models"] > by_pearson["models"]
    assert {*ask()} == {"images", "models"}


def test_more_tests_need_larger_differences() -> None:
    [[single_test], [many_tests]] = (ask("--images", 1000, "--tests", tests)["images"] for tests in (1, 24))
    assert all(many_tests[name] > single_test[name] for name in ("by_interval", "by_test", "kappa"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"images": [0]}, "images 0: give a number of 1 or more"),
        ({"models": [8]}, "models 8: give a number of 9 or more"),
        ({"difference": float("nan")}, "difference nan: give a number from 0.0001 to 1"),
        ({"difference": 0.2}, "difference 0.2: none exceeds the discordance, 0.1; give a discordance of 0.2 or more"),
        ({"correlation": 1.0}, "correlation 1: give a number from 0.0001 to 0.9999"),
    ],
)
def test_numbers_out_of_range_are_refused_in_one_line(keys: dict[str, float], message: str) -> None:
    assert refusal(bandlens.power, **keys).startswith(message)
