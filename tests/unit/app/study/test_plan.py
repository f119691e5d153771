"""A changed study runs exactly the cells that the change touches again, and `plan` says so before."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick_export  # noqa: F401 - one test exports several networks
from small import Command, ask, make_images, make_model, make_pictures, make_study, write_pictures

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.statistics.power import smallest_tested_difference
from bandlens.app.study.file import Study
from bandlens.app.study.plan import Plan, plan_study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.summary import Summary
from bandlens.core.errors import StoreError, UsageError
from bandlens.core.records import Crop
from bandlens.export.model_files import save_model
from bandlens.probes.images.pack import pack

BAND = "critical_band = {noise_sd = [0.0, 0.02, 0.04, 0.08, 0.16]}"
OTHER_LEVEL = "critical_band = {noise_sd = [0.0, 0.02, 0.04, 0.08, 0.12]}"


class Place:
    """A folder with two models, 20 labelled images, and a database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder, folder / "results.duckdb"
        for seed, name in enumerate(("one", "two")):
            make_model(folder / "models", name, seed=seed)
        make_images(folder / "images.set", make_pictures(20), labels=[k % 12 for k in range(20)])

    def plan(self, **keys: Any) -> Plan:
        return plan_study(resolve(Study.read(make_study(self.folder, **keys))), self.database)

    def run(self, **keys: Any) -> Summary:
        return run_study(resolve(Study.read(make_study(self.folder, **keys))), self.database)

    def ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return ask(self.database, sql, parameters)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_limit_runs_the_same_images_as_the_whole_and_no_others(place: Place) -> None:
    noise = "critical_band = {noise_sd = [0.16], frequency = [2]}"
    query = (
        "SELECT checkpoint, probe, path, predicted, label_rank, confidence FROM study_detail "
        "JOIN prediction USING (cell) JOIN image USING (image_index) WHERE image.image_set = image_set_id"
    )
    place.run(probes=noise)
    full_rows = place.ask(query)
    limited = place.run(probes=noise, limit=14)
    assert limited.predictions == 14 * limited.cells
    assert set(place.ask(query)) < set(full_rows)
    classes = place.ask(
        "SELECT count(*) FROM label JOIN image_set ON image_set.id = label.image_set WHERE count = 14 GROUP BY class"
    )
    assert sorted(classes) == [(1,)] * 10 + [(2,)] * 2
    assert place.plan(probes=noise, limit=14).missing == []


BICUBIC = Crop(128, 140, interpolation="bicubic")


def test_each_checkpoint_sees_the_images_that_were_packed_for_it(place: Place) -> None:
    for name in ("two", "three"):
        model = make_model(place.folder / "models", name, seed=len(name))
        save_model(replace(model, crop=BICUBIC), model.path.read_bytes(), {})
    with pytest.raises(UsageError) as error:
        place.plan()
    assert str(error.value).endswith("pack one for three, two with --size 128 --resize 140 --interpolation bicubic")
    pictures = {f"{number}.png": picture for number, picture in enumerate(make_pictures(3, size=160, seed=1))}
    photographs = write_pictures(place.folder / "photographs", pictures)
    pack(photographs, place.folder / "bicubic.set", crop=BICUBIC)
    pack(photographs, place.folder / "larger.set", crop=Crop(64, 64))
    images = ["images.set", "bicubic.set"]
    plan = place.plan(images=images)
    pairs = {(row["checkpoint"], row["image_set"]) for row in plan.rows}
    assert pairs == {("one", "images.set"), ("one", "bicubic.set"), ("two", "bicubic.set"), ("three", "bicubic.set")}
    with pytest.raises(
        UsageError, match=r"larger.set \(RGB, .* crop 64\) fits no checkpoint of the study; leave it out"
    ):
        place.plan(images=[*images, "larger.set"])


def counts(plan: Plan) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    """(checkpoint, probe) -> cells done, begun, missing, stale."""
    return {
        (row["checkpoint"], row["probe"]): (row["done"], row["begun"], row["missing"], row["stale"])
        for row in plan.rows
    }


def test_after_one_noise_level_changed_exactly_its_seven_cells_a_checkpoint_are_run(
    place: Place, command: Command
) -> None:
    first = place.run(probes=BAND)
    assert (first.ran, first.cells, first.predictions) == (2 * 30, 2 * 30, 20 * 60)
    accuracies = place.ask("SELECT * EXCLUDE (version) FROM accuracy ORDER BY ALL")

    plan = place.plan(probes=OTHER_LEVEL)
    assert counts(plan) == {
        (name, probe): state
        for name in ("one", "two")
        for probe, state in (("clean", (1, 0, 0, 0)), ("critical_band", (22, 0, 7, 7)))
    }
    assert {str(cell.condition) for cell in plan.missing} == {
        f"critical_band noise_sd=0.12, frequency={f}" for f in range(7)
    }
    assert plan.predictions == 20 * 14
    assert plan.estimate == "rates of earlier runs in this database"

    page = command("plan", make_study(place.folder, probes=OTHER_LEVEL), "--db", place.database).out
    assert page.startswith("stale: 14 cells of the study's last version that this one lacks; they stay in the ")

    second = place.run(probes=OTHER_LEVEL)
    assert (second.label, second.ran, second.cells) == ("study@2", 14, 60)
    levels = "SELECT DISTINCT noise_sd FROM {} WHERE noise_sd IS NOT NULL ORDER BY ALL"
    assert [sd for (sd,) in place.ask(levels.format("accuracy"))] == [0.0, 0.02, 0.04, 0.08, 0.12]
    assert [sd for (sd,) in place.ask(levels.format("accuracy_of('study@1')"))] == [0.0, 0.02, 0.04, 0.08, 0.16]
    assert place.ask("SELECT count(*) FROM accuracy") == [(60,)]
    assert place.ask("SELECT count(*) FROM cell") == [(74,)]
    assert place.ask("SELECT * EXCLUDE (version) FROM accuracy_of('study@1') ORDER BY ALL") == accuracies


def test_another_seed_runs_the_random_conditions_again(place: Place) -> None:
    probes = "lowpass = {cutoff = 0.5}\ncritical_band = {noise_sd = [0.0, 0.1], frequency = [1, 2]}"
    place.run(probes=probes, seed=1)
    missing = {str(cell.condition) for cell in place.plan(probes=probes, seed=2).missing}
    assert place.run(probes=probes, seed=2).ran == 2 * len(missing)
    random = {f"critical_band noise_sd=0.1, frequency={f}" for f in (1, 2)}
    assert random <= missing <= random | {"critical_band noise_sd=0"}
    assert place.plan(probes=probes, seed=2, batch=5, threads=2, name="other").missing == []


def test_another_model_file_of_the_same_name_is_another_model(place: Place) -> None:
    place.run()
    make_model(place.folder / "models", "two", seed=5)
    plan = place.plan()
    assert counts(plan) == {("one", "clean"): (1, 0, 0, 0), ("two", "clean"): (0, 0, 1, 1)}
    place.run()
    assert place.ask("SELECT checkpoint FROM accuracy ORDER BY ALL") == [("one",), ("two",)]
    assert place.ask("SELECT count(*) FROM accuracy_of('study@1')") == [(2,)]


# The command line


def test_plan_and_run_print_json(command: Command, place: Place) -> None:
    file = make_study(place.folder, probes="lowpass = {cutoff = [0.1, 0.5]}")
    document = json.loads(command("plan", file, "--db", place.database, "--format", "json").out)
    assert (len(document["missing"]), document["predictions"]) == (6, 120)
    assert {row["probe"] for row in document["rows"]} == {"clean", "lowpass"}
    assert "two, images.set, lowpass below 6 cycles/image" in document["missing"]
    ran = json.loads(command("run", file, "--db", place.database, "--format", "json").out)
    with bandlens.open(place.database) as reader:
        verdict = reader.verdict()
    assert ran | {"seconds": 0} == {
        "label": "study@1", "cells": 6, "ran": 6, "predictions": 120, "seconds": 0, "failed": [], "verdict": verdict
    }  # fmt: skip


def test_plan_and_run_say_which_metrics_a_changed_noise_level_takes(command: Command, place: Place) -> None:
    file = make_study(place.folder, probes=OTHER_LEVEL, limit=12)
    why = (
        "critical_band lacks 7 of the 29 conditions that the published estimator takes; leave out noise_sd and "
        "frequency"
    )
    words = command("plan", file, "--db", place.database).out
    assert f"no critical band on images.set: {why}\n" in words
    assert "metrics of images.set: psychometric channel, psychometric thresholds\n" in words
    [conditions] = [line for line in words.splitlines() if line.startswith("under each condition of images.set: ")]
    assert {"accuracy", "confidence", "top1_brier_score"} <= set(conditions.partition(": ")[2].split(", "))
    rows = json.loads(command("plan", file, "--db", place.database, "--format", "json").out)["metrics"]
    assert [(row["image_set"], row["why"]) for row in rows] == [
        ("images.set", why), ("images.set", None), ("images.set", None)
    ]  # fmt: skip
    names = ("critical_bandwidth", "psychometric_bandwidth", "psychometric_threshold_6")
    assert all(name in row["metrics"] for name, row in zip(names, rows, strict=True))
    ran = command("run", file, "--db", place.database)
    assert (ran.code, ran.err) == (
        0,
        f"bandlens: no critical band on images.set: {why}; `bandlens plan` lists the metrics of a study\n",
    )


def test_plan_prints_a_summary_and_the_cells_where_they_are_asked_for(command: Command, place: Place) -> None:
    file = make_study(place.folder)
    summary = command("plan", file, "--db", place.database).out.splitlines()
    assert summary[-2].startswith("to run: 2 cells, 40 predictions, about ")
    assert re.fullmatch(r"images: .* kB; database: \d+ B more", summary[-1])
    *table, room = command("plan", file, "--db", place.database, "--cells").out.splitlines()
    assert [line.split()[:3] for line in table[2:4]] == [[name, "images.set", "clean"] for name in ("one", "two")]
    assert [line for line in summary if line.split()[1] == "images.set"] == []
    assert room == summary[-1]


def test_a_run_ends_with_the_verdict_and_says_what_is_next(command: Command, place: Place) -> None:
    filters = "lowpass = {cutoff = [0.1, 0.5]}\nhighpass = {cutoff = [0.1, 0.5]}"
    file = make_study(place.folder, checkpoints=["one"], probes=filters)
    words = ("run", file, "--db", place.database)
    bare = command(*words, "--no-analyze")
    assert (bare.code, bare.out.count("\n")) == (0, 1)
    assert bare.out.startswith("study@1: ran 5 of 5 cells, 100 predictions in ")
    assert bare.out.endswith(f", into {place.database}; next: bandlens analyze --study {file} --db {place.database}\n")
    assert place.ask("SELECT count(*) FROM metric") == [(0,)]
    analyzed = command(*words)
    assert (analyzed.code, analyzed.err) == (0, "")
    line, verdict = analyzed.out.splitlines()
    assert (
        line
        == f"study@1: nothing to run, all 5 cells are in {place.database}; next: bandlens report --db {place.database}"
    )
    with bandlens.open(place.database) as reader:
        assert reader.verdict()[0] == verdict
    assert command("analyze", "--db", place.database).out.splitlines()[-1] == verdict


def test_a_run_computes_metrics_where_cells_lack_them_alone(command: Command, place: Place) -> None:
    """A number that the test puts into a metric stays, until there is a new cell."""
    lowpass, highpass = "lowpass = {cutoff = [0.1, 0.5]}", "highpass = {cutoff = [0.1, 0.5]}"
    words = ("run", place.folder / "study.toml", "--db", place.database)
    marked = "SELECT count(*) > 0 FROM measure_value WHERE note = 'mine'"
    for probes in (lowpass, f"{lowpass}\n{highpass}"):
        make_study(place.folder, checkpoints=["one"], probes=probes)
        assert command(*words, "--no-analyze").code == 0
        assert command(*words).code == 0
        with open_store(place.database) as store:
            store.execute("UPDATE measure_value SET note = 'mine'")
        assert command(*words).code == 0
        assert place.ask(marked) == [(True,)]
    with open_store(place.database) as store:  # as if the last cell had been lacking when the others were analyzed
        store.execute("DELETE FROM measure_value WHERE condition = (SELECT max(condition) FROM measure_value)")
    assert command(*words).code == 0
    assert place.ask(marked.replace("note", "study = (SELECT max(study) FROM measure_value) AND note")) == [(False,)]


def test_a_run_whose_cells_failed_analyzes_the_others_and_ends_with_its_own_status(
    command: Command, place: Place
) -> None:
    make_model(place.folder / "models", "two", seed=1, darkest=0.99)
    file = make_study(place.folder)
    ran = command("run", file, "--db", place.database)
    assert (ran.code, ran.out.partition(" cells, ")[0]) == (1, "study@1: ran 1 of 2")
    assert ran.out.splitlines()[0].endswith(f", into {place.database}")
    assert place.ask("SELECT DISTINCT checkpoint FROM condition_metric") == [("one",)]
    second_answer = command("run", file, "--db", place.database)
    assert (second_answer.code, second_answer.out.partition(" predictions")[0]) == (1, "study@1: ran 0 of 2 cells, 0")
    summary = command("plan", file, "--db", place.database).out
    assert "\nto run: 1 cell (1 of them failed when last tried), 20 predictions, about " in summary


def test_metrics_that_cannot_be_stored_are_a_warning_of_a_run_that_is(
    command: Command, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("no room")

    file = make_study(place.folder, probes="[measures]\nhits = {file = 'hits.py'}")
    (place.folder / "hits.py").write_text("def hits(right):\n    return right\n", encoding="utf-8")
    with monkeypatch.context() as patches:
        patches.setattr(Store, "write_values", refuse)
        ran = command("run", file, "--db", place.database)
    assert (ran.code, ran.out.count("\n"), place.ask("SELECT count(*) FROM accuracy")) == (0, 1, [(2,)])
    assert f"; next: bandlens analyze --study {file} --db " in ran.out
    assert ran.err.endswith("bandlens: warning: study@1 is not analyzed: no room\n")
    assert command("run", file, "--db", place.database).code == 0
    assert {"hits", "accuracy"} <= {name for (name,) in place.ask("SELECT metric FROM condition_metric")}


def test_the_smallest_difference_counts_clusters_and_tests(command: Command, place: Place) -> None:
    """20 images in 10 clusters, and three conditions."""
    make_images(place.folder / "clustered.set", make_pictures(20), labels=[k % 12 for k in range(20)], folders=2)
    filters = "lowpass = {cutoff = [0.1, 0.5]}"
    plan = place.plan(images=["clustered.set"], probes=filters)
    assert plan.detectable == {"clustered.set": smallest_tested_difference(20, 0.1, 3, effect=2)}
    page = command(
        "plan", make_study(place.folder, images=["clustered.set"], probes=filters), "--db", place.database
    ).out
    assert (
        "\nsmallest difference of two accuracies that 80 % of such studies find after Holm, on clustered.set: none\n"
        in page
    )


def test_files_that_a_study_runs_are_named_before_they_are(place: Place, command: Command, tmp_path: Path) -> None:
    code = tmp_path / "stranger.py"
    code.write_text("raise ValueError('this has run')", encoding="utf-8")
    tables = f"blur = {{file = '{code}'}}\n[measures]\nhits = {{file = 'hits.py'}}"
    file = make_study(place.folder, probes=tables)
    lines = command("plan", file, "--db", place.database).err.splitlines()
    assert lines[0] == (
        f"the study runs programs with your rights: probe blur: {code}, measure hits: {place.folder / 'hits.py'}"
    )
    assert "this has run" in lines[-1]
