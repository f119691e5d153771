"""Predictions made elsewhere: four networks on ImageNet, small files of every kind, and files that do not fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, image_set, part, store_study
from small import Command, ask, make_images, make_pictures, write_pictures

from bandlens.analysis.database.open import open_store
from bandlens.app.explore.answers import Answers, ImageQuery
from bandlens.app.study.set_lookup import Conditions
from bandlens.core.records import Crop
from bandlens.probes.images.pack import pack


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with labels of four files, and predictions of them in another order."""
    pl.DataFrame({"file_name": list("abcd"), "label": [1, 2, 3, 4]}).write_csv(tmp_path / "labels.csv")
    pl.DataFrame(
        {"file_name": list("dcba"), "predicted_class": [4, 3, 9, 1], "predicted_probability": [0.9, 0.8, 0.7, 0.6]}
    ).write_csv(tmp_path / "predictions.csv")
    return tmp_path


def run(command: Command, folder: Path, images: Path | None = None) -> tuple[int, str, str]:
    result = command(
        "import", "predictions", folder / "predictions.csv", "--checkpoint", "net",
        "--images", images or folder / "labels.csv", "--db", folder / "results.duckdb",
    )  # fmt: skip
    return result.code, result.out, result.err


def test_rows_belong_to_files_and_are_marked_as_imported(command: Command, place: Path) -> None:
    code, out, err = run(command, place)
    assert (code, "net@1, 4 predictions imported, top-1 75.000 %" in out) == (0, True), err
    query = "SELECT path, predicted, label_rank FROM prediction JOIN image USING (image_index) ORDER BY path"
    rows = json.loads(command("sql", query, "--db", place / "results.duckdb", "--format", "json").out)
    assert [(row["path"], row["predicted"], row["label_rank"]) for row in rows] == [
        ("a", 1, 0),
        ("b", 9, 65_535),
        ("c", 3, 0),
        ("d", 4, 0),
    ]
    source = ask(place / "results.duckdb", "SELECT versions->>'predictions', versions->>'sha256' FROM session")
    assert source == [("predictions.csv", hashlib.sha256((place / "predictions.csv").read_bytes()).hexdigest())]
    assert run(command, place)[0] == 0  # the second import adds nothing
    count = command("sql", "SELECT count(*) AS n FROM prediction", "--db", place / "results.duckdb", "--format", "json")
    assert json.loads(count.out) == [{"n": 4}]


def test_predictions_of_any_of_an_images_classes_are_right(command: Command, place: Path) -> None:
    names = ("a.png", "b.png", "c.png", "d.png")
    write_pictures(place / "pictures", dict(zip(names, make_pictures(4, 16), strict=True)))
    (place / "several.csv").write_text("path,class\n" + "a.png,1\nb.png,2;9\nc.png,5;6\nd.png,0;4\n")
    pack(place / "pictures", place / "images.set", crop=Crop(16, 16), labels=place / "several.csv")
    predictions = pl.read_csv(place / "predictions.csv").with_columns(pl.col("file_name") + ".png")
    predictions.write_csv(place / "predictions.csv")
    assert run(command, place, place / "images.set")[0] == 0
    query = "SELECT label_rank FROM prediction ORDER BY image_index"
    assert ask(place / "results.duckdb", query) == [(0,), (0,), (65_535,), (0,)]


def test_a_file_may_have_the_probabilities_of_the_labels(command: Command, place: Path) -> None:
    rows = pl.read_csv(place / "predictions.csv").with_columns(label_probability=pl.Series([0.9, 0.8, 0.5, 0.6]))
    rows.write_csv(place / "predictions.csv")
    assert run(command, place)[0] == 0
    db = place / "results.duckdb"
    stored = dict(ask(db, "SELECT path, label_probability FROM prediction JOIN image USING (image_index)"))
    assert stored == pytest.approx(dict(zip(rows["file_name"], rows["label_probability"], strict=True)))
    assert command("analyze", "--db", db).code == 0
    [(likelihood,)] = ask(db, "SELECT value FROM condition_metric WHERE metric = 'negative_log_likelihood'")
    assert likelihood == pytest.approx(-np.log([0.9, 0.8, 0.5, 0.6]).mean())
    rows.with_columns(label_probability=pl.lit(1.5)).write_csv(place / "predictions.csv")
    code, _, error = run(command, place)
    assert (code, "label_probability: 1.5 is no probability" in error) == (1, True), error


def test_what_has_no_probabilities_has_no_confidence(command: Command, place: Path) -> None:
    """It is missing from the database, from what is computed of it, and from what a page is told."""
    pl.read_csv(place / "predictions.csv").drop("predicted_probability").write_csv(place / "predictions.csv")
    assert run(command, place)[0] == 0
    db = place / "results.duckdb"
    assert ask(db, "SELECT DISTINCT confidence FROM prediction") == [(None,)]
    assert command("analyze", "--db", db).code == 0
    assert ask(db, "SELECT metric FROM condition_metric WHERE image_set = 'labels'") == [("accuracy",)]
    assert command("verify", "--db", db).code == 0
    answers = Answers(db, {}, Conditions())
    (clean,) = answers.study("net")["conditions"]
    page = answers.images(ImageQuery("net", "labels", clean["id"], "net", None, "errors", None, ["net"]))
    answers.close()
    (tile,) = json.loads(json.dumps(page, allow_nan=False))["tiles"]
    assert [(answer["clean_confidence"], answer["confidence"], answer["right"]) for answer in tile["answers"]] == [
        (None, None, False)
    ]


def test_a_study_has_all_image_sets_of_its_checkpoint(command: Command, place: Path) -> None:
    """Another set makes another version; other predictions take the place of those on the same set."""
    db, query = place / "results.duckdb", "SELECT image_set, top1 FROM accuracy_of('net') ORDER BY ALL"
    (place / "more.csv").write_text("file_name,label\nd,4\na,7\nb,9\nc,3\n")
    assert "net@1, 4 predictions imported, top-1 75.000 %" in run(command, place)[1]
    assert "net@2, 4 predictions imported, top-1 75.000 %" in run(command, place, place / "more.csv")[1]
    assert ask(db, query) == [("labels", 0.75), ("more", 0.75)]
    assert "net@2, 4 predictions imported" in run(command, place)[1]  # this import adds nothing
    pl.read_csv(place / "predictions.csv").with_columns(predicted_class=9).write_csv(place / "predictions.csv")
    assert "net@3, 4 predictions imported, top-1 0.000 %" in run(command, place)[1]
    assert ask(db, query) == [("labels", 0), ("more", 0.75)]
    assert json.loads(command("verify", "--db", db, "--format", "json").out)["problems"] == []
    (place / "more.csv").write_text("file_name,label\nd,4\na,7\nb,9\nc,8\n")
    code, out, err = run(command, place, place / "more.csv")
    assert (code, out, "two image sets are named more" in err) == (2, "", True)
    assert ask(db, query) == [("labels", 0), ("more", 0.75)]


def test_a_file_without_models_is_of_one(command: Command, place: Path) -> None:
    words = ("import", "predictions", place / "predictions.csv", "--images", place / "labels.csv")
    answer = command(*words, "--checkpoint", "a", "--checkpoint", "b", "--db", place / "r.duckdb")
    assert (answer.code, "no column model, so its predictions are of one" in answer.err) == (2, True)


def test_the_study_of_a_checkpoint_is_one_of_imported_predictions(command: Command, place: Path) -> None:
    db, images = place / "results.duckdb", image_set(2, labels=[1, 2])
    with open_store(db) as store:
        store_study(store, "net", images, [part(cell(images), [1, 2], [0, 0])])
    rows = pl.read_csv(place / "predictions.csv")
    pl.concat([rows.with_columns(model=pl.lit(name)) for name in ("another", "net")]).write_csv(place / "two.csv")
    words = ("import", "predictions", place / "two.csv", "--images", place / "labels.csv", "--db", db)
    refusal = command(*words, "--checkpoint", "another", "--checkpoint", "net")
    assert (refusal.code, refusal.out) == (2, "")
    assert "the study net is not of imported predictions" in refusal.err
    assert ask(db, "SELECT label FROM study_version") == [("net@1",)]
    odd = command(*words, "--checkpoint", "net@1")
    assert (odd.code, "must be a line of text without @" in odd.err) == (2, True)


def test_a_model_that_is_not_in_the_file_leaves_nothing_of_the_others(command: Command, tmp_path: Path) -> None:
    pl.DataFrame({"file_name": ["a"], "label": [1]}).write_csv(tmp_path / "labels.csv")
    rows = {"file_name": ["a"], "predicted_class": [1], "model": ["one"]}
    pl.DataFrame(rows).write_csv(tmp_path / "predictions.csv")
    words = ("import", "predictions", tmp_path / "predictions.csv", "--images", tmp_path / "labels.csv")
    db = ("--db", tmp_path / "results.duckdb")
    result = command(*words, "--checkpoint", "one", "--checkpoint", "two", *db)
    assert (result.code, result.out) == (2, "")
    assert "holds no predictions of two" in result.err
    assert not (tmp_path / "results.duckdb").exists()


def test_paths_and_classes_that_a_packed_set_does_not_have_are_named(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = dict(zip(("ant/0.png", "bee/0.png"), make_pictures(2), strict=True))
    images = pack(write_pictures(tmp_path / "photos", pictures), tmp_path / "images.set", labels="folders")
    frame = pl.DataFrame({"file_name": images.paths, "predicted_class": [0, 7]})
    frame.with_columns(file_name="/home/" + pl.col("file_name")).write_csv(tmp_path / "predictions.csv")
    code, _, err = run(command, tmp_path, images.folder)
    line = "predictions.csv, row 1, column file_name: /home/ant/0.png is no path of the set like ant/0.png\n"
    assert (code, line in err) == (1, True)
    frame.write_csv(tmp_path / "predictions.csv")
    code, _, err = run(command, tmp_path, images.folder)
    assert (code, "images.set has labels of 2 classes and net predicts 7, so that a label may" in caplog.text) == (
        0,
        True,
    )


@pytest.mark.parametrize(("folders", "guess"), [(None, 1), (2, 0)])
def test_top5_of_a_packed_set_is_known_where_all_is_right(
    command: Command, tmp_path: Path, folders: int | None, guess: int
) -> None:
    """The database agrees with itself, whether images are independent or each two neighbours are a cluster."""
    images = make_images(tmp_path / "images.set", make_pictures(6), labels=[0, 1, 2, 3, 4, 5], folders=folders)
    names = [path.rsplit("/", 1)[-1] for path in images.paths]
    frame = pl.DataFrame({"file_name": names, "predicted_class": [guess, 1, 2, 3, 4, 5], "predicted_probability": 0})
    frame.write_csv(tmp_path / "predictions.csv")
    code, _, err = run(command, tmp_path, tmp_path / "images.set")
    assert code == 0, err
    db = tmp_path / "results.duckdb"
    assert ask(db, "SELECT top1, top5 FROM accuracy") == [(5 / 6, None) if guess else (1, 1)]
    assert json.loads(command("verify", "--db", db, "--format", "json").out)["problems"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("predicted_class"), "row 1: no column predicted_class"),
        (lambda t: t.head(3), "no row for a of 4"),
        (lambda t: pl.concat([t, t.head(1)]), "row 5, column file_name: d is there more than once"),
        (
            lambda t: pl.concat([t, t.head(1).with_columns(file_name=pl.lit("e"))]),
            "row 5, column file_name: e is no image",
        ),
        (
            lambda t: t.with_columns(predicted_class=pl.lit("cat")),
            "row 1, column predicted_class: cat is no class; giv",
        ),
        (lambda t: t.with_columns(predicted_class=pl.lit(1000)), "row 1, column predicted_class: 1000 is no class"),
        (lambda t: t.with_columns(predicted_probability=pl.lit(1.5)), "column predicted_probability: 1.5 is no prob"),
        (lambda t: t.with_columns(model=pl.lit("other")), "no predictions of net, but of other"),
        (
            lambda t: t.with_columns(label_probability=pl.Series([0.9, 0.8, 0.71, 0.6])),
            "b has label_probability 0.71 and predicted_probability 0.7",
        ),
        (
            lambda t: t.with_columns(label_probability=pl.Series([0.9, 0.79, 0.1, 0.6])),
            "c has label_probability 0.79 and predicted_probability 0.8",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(
    command: Command, place: Path, change: Callable[[pl.DataFrame], pl.DataFrame], message: str
) -> None:
    change(pl.read_csv(place / "predictions.csv")).write_csv(place / "predictions.csv")
    code, out, err = run(command, place)
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not (place / "results.duckdb").exists()
