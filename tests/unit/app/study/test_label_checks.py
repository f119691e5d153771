"""`plan`, `run` and the report say in a line that labels may be of other classes than a model's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, image_set, model, part, store_study
from scipy.stats import binomtest
from small import Command, ask, make_images, make_model, make_pictures, make_study, pack_folders

from bandlens.analysis.database.open import open_store
from bandlens.app.report.data import read_data
from bandlens.app.report.study import verdict_section
from bandlens.app.study.file import Study
from bandlens.app.study.label_checks import doubt_accuracies, doubt_numbers
from bandlens.app.study.resolve import resolve
from bandlens.export.class_names import name_classes
from bandlens.probes.images.image_set import Scheme, open_image_set
from bandlens.probes.images.pack_options import Draw

ALWAYS = 5
"""The class that the network of `make_model(seed=1)` sees in every picture."""
COUNTS = "image set images.set has labels of 3 classes and one has 7"
CHANCE = "accuracy without perturbation lies below chance on image set images.set (one 0.000 ["


def test_what_is_doubtful_is_a_line_of_plan_run_and_report_until_the_classes_have_names(
    tmp_path: Path, command: Command
) -> None:
    pack_folders(tmp_path, ["ant", "bee", "crow"], per_class=12)
    model = make_model(tmp_path / "models", classes=7, seed=1)
    study, database = make_study(tmp_path), tmp_path / "results.duckdb"

    def ask_plan() -> list[str]:
        lines = command("plan", study, "--db", database).out.splitlines()
        return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]

    (line,) = ask_plan()
    assert line.startswith(COUNTS)
    ran = command("run", study, "--db", database)
    assert ran.code == 0
    doubts = [line.removeprefix("bandlens: warning: ") for line in ran.err.splitlines() if "warning" in line]
    assert [line.startswith(start) for line, start in zip(doubts, (COUNTS, CHANCE), strict=True)] == [True, True]
    assert ask_plan() == doubts
    assert json.loads(command("plan", study, "--db", database, "--format", "json").out)["doubts"] == doubts
    results = read_data(database)
    text = verdict_section(results, results.verdict).text
    assert [line for line in text if line.startswith("Warning: ")] == [f"Warning: {doubts[1]}."]

    names = ["elk", "fox", "gnu", "ant", "hen", "bee", "crow"]
    name_classes(model, names)
    assert ask_plan() == []
    ran = command("run", study, "--db", database)
    assert (ran.code, ran.err) == (
        0,
        "bandlens: study@2 is a new version of study@1: images.set (36 images), made anew\n",
    )
    assert read_data(database).doubts == []
    assert ask(database, "SELECT top1 FROM accuracy") == [(1 / 3,)], "every bee is right"
    assert names[ALWAYS] == "bee"


@pytest.mark.parametrize("matches", [0, 11, 12])
def test_accuracies_are_doubted_where_their_interval_lies_below_chance(matches: int, tmp_path: Path) -> None:
    images = image_set(200, labels=np.arange(200) % 10)
    rank = np.where(np.arange(200) < matches, 0, 3)
    clean = cell(images, by=model(classes=10))
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "study", images, [part(clean, np.zeros(200), rank)])
        lines = doubt_accuracies(store, {clean.key: ("net", "set")})
        assert doubt_accuracies(store, {"unknown": ("net", "set")}) == []
    high = binomtest(matches, 200).proportion_ci(method="wilson").high
    assert (len(lines) == 1) == (high < 0.1)
    assert all(f"image set set (net {matches / 200:.3f} [" in line for line in lines)


@pytest.mark.parametrize(
    "info", [{"decision_space": "imagenet-a"}, {"schemes": {"texture": [[1]] * 200}}], ids=["ImageNet-A", "conflict"]
)
def test_images_that_mislead_models_are_not_doubted(info: dict[str, object], tmp_path: Path) -> None:
    images = image_set(200, labels=np.arange(200) % 10, **info)  # type: ignore[arg-type]
    clean = cell(images, by=model(classes=10))
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "study", images, [part(clean, np.zeros(200), np.ones(200))])
        assert doubt_accuracies(store, {clean.key: ("net", "set")}) == []


def test_numbers_of_classes_are_doubted_where_they_differ(tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", make_pictures(6), labels=[0, 1, 2, 0, 1, 2])
    make_model(tmp_path / "models")
    work = resolve(Study.read(make_study(tmp_path)))
    [images], [network] = work.image_sets, work.models

    def doubts(names: list[str] | None, **classes: int) -> list[str]:
        models = [replace(network, name=name, classes=count) for name, count in classes.items()]
        return doubt_numbers(models, [replace(images, class_names=names)])

    (line,) = doubts(["ant", "bee", "crow"], net=7, imagenet=1000)
    assert line.startswith("image set images.set has labels of 3 classes and net has 7, imagenet has 1,000, so that")
    (line,) = doubts(None, net=7, imagenet=1000)
    assert "net has 7, so that" in line, "labels by WordNet ids have no names either"
    assert doubts([*"abcdefg"], net=7) == doubts(None, net=3, imagenet=1000) == []
    images = replace(images, schemes={"several": Scheme(np.arange(7) % 6, np.arange(7, dtype=np.int32))})
    assert doubts(None, net=7) == [], "every class of an image counts"
    images = open_image_set(images.folder, Draw(2))
    assert doubts(None, net=3) == [], "images that are not drawn count"
