"""Answers to the page equal those of SQL over the same database."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_results import cell, database_of, image_set, model, part, store_study
from made_up_results import condition as made_up_condition
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from small import ask

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.app.explore.answers import SELECTIONS, Answers, ImageQuery
from bandlens.app.study.file import grid_of
from bandlens.app.study.set_lookup import Conditions, find_sets
from bandlens.core.errors import UsageError
from bandlens.probes.images.image_set import open_image_set
from bandlens.probes.octaves import MASKS

NAMES = [f"net_{k}" for k in (0, 2, 3, 4, 5)]


@contextmanager
def open_answers(db: Path, folder: Path | None = None, study: Path | None = None) -> Iterator[Answers]:
    """Answers from a database, with the image sets of the folder and the probes of the study file, if any."""
    answers = Answers(db, find_sets([folder]) if folder else {}, Conditions(study and grid_of(study)))
    yield answers
    answers.close()


@pytest.fixture(scope="module")
def answers(explored: Path) -> Iterator[Answers]:
    with open_answers(explored / "results.duckdb", explored) as answers:
        yield answers


@pytest.fixture(scope="module")
def study(answers: Answers) -> dict[str, Any]:
    return answers.study(None)


def condition(study: dict[str, Any], words: str) -> dict[str, Any]:
    (entry,) = [entry for entry in study["conditions"] if entry["words"] == words]
    return dict(entry)


def ask_images(answers: Answers, study: dict[str, Any], words: str, **options: Any) -> dict[str, Any]:
    asks = {"a": "net_0", "b": None, "selection": "all", "label": None, "models": NAMES} | options
    return answers.images(ImageQuery("small", "images", condition(study, words)["id"], **asks))


def test_accuracies_are_those_of_the_view(explored: Path, study: dict[str, Any]) -> None:
    words = {entry["id"]: entry["words"] for entry in study["conditions"]}
    table = study["accuracy"]
    estimates = {
        (model, words[key]): (top1, low, high)
        for model, key, top1, low, high in zip(
            *(table[name] for name in ("checkpoint", "condition", "top1", "low", "high")), strict=True
        )
    }
    query = "SELECT checkpoint, cutoff, top1, low, high FROM accuracy WHERE probe = 'lowpass'"
    for name, cutoff, *values in ask(explored / "results.duckdb", query):
        assert estimates[name, f"lowpass cutoff={cutoff}"] == tuple(values)
    assert len(estimates) == 6 * 53


def test_the_page_begins_with_the_verdict(explored: Path, study: dict[str, Any]) -> None:
    with bandlens.open(explored / "results.duckdb") as results:
        assert study["verdict"] == results.verdict("small") != []


def test_the_menu_tells_filters_and_bands_by_their_frequencies_and_own_probes_by_their_axis(
    study: dict[str, Any],
) -> None:
    settings = {entry["words"]: entry["setting"] for entry in study["conditions"]}
    assert settings["highpass cutoff=0.1"] == "above 57 cycles/image"
    assert settings["critical_band noise_sd=0.16, frequency=2"] == "noise_sd=0.16, at 4 cycles/image"
    assert settings["critical_band noise_sd=0"] == "noise_sd=0"
    assert settings["blur width=2"] == "width=2"
    blur = condition(study, "blur width=2")
    assert (blur["x"], blur["x_title"], blur["series"], blur["y"]) == (2, "width", "", None)
    probes = list(dict.fromkeys(entry["probe"] for entry in study["conditions"]))
    assert probes == ["clean", "lowpass", "highpass", "critical_band", "blur"], "as the study file has them"


def test_the_fewest_octaves_and_biases_of_sound_values_come_first(sample: Path) -> None:
    with open_answers(sample) as answers:
        octaves, grid = answers.study("octaves"), answers.study("grid")
    assert [entry["setting"] for entry in octaves["conditions"]] == ["", *(f"keep={mask}" for mask in MASKS)]
    assert grid["metrics"]["biases"][0] == "high_frequency_bias"


@pytest.mark.parametrize("labelled", [False, True])
def test_selections(explored: Path, answers: Answers, study: dict[str, Any], labelled: bool) -> None:
    database = explored / "results.duckdb"

    def predictions(model: str, probe: str) -> dict[int, int]:
        query = (
            "SELECT image_index, predicted FROM prediction JOIN study_detail USING (cell) "
            "WHERE checkpoint = ? AND probe = ? AND coalesce(cutoff, 0.1) = 0.1"
        )
        return dict(ask(database, query, [model, probe]))

    (predictions, clean), (predictions_b, clean_b) = (
        [predictions(model, probe) for probe in ("lowpass", "clean")] for model in ("net_0", "net_2")
    )
    labels = dict(ask(database, "SELECT image_index, class FROM label"))
    label = max(labels.values(), key=[*labels.values()].count) if labelled else None
    flips = {k for k in predictions if predictions[k] != clean[k]}
    expected = {
        "all": set(predictions),
        "flips": flips,
        "flips_only_a": {k for k in flips if predictions_b[k] == clean_b[k]},
        "errors": {k for k in predictions if predictions[k] != labels[k]},
    }
    assert expected.keys() == set(SELECTIONS)
    for selection, indices in expected.items():
        reply = ask_images(answers, study, "lowpass cutoff=0.1", selection=selection, b="net_2", label=label)
        members = {k for k in indices if label in (None, labels[k])}
        assert members
        assert reply["total"] == len(members)
        assert {tile["index"] for tile in reply["tiles"]} <= members
        assert len(reply["tiles"]) == min(24, len(members))


def test_b_minus_a_is_what_compare_says(explored: Path, answers: Answers, study: dict[str, Any]) -> None:
    cells = bandlens.compare("small", db=explored / "results.duckdb", checkpoints=("net_0", "net_2")).cells
    row = cells.filter(probe="highpass", parameters='{"cutoff": 0.9}').row(0, named=True)
    expected = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] on 40 images"
    assert ask_images(answers, study, "highpass cutoff=0.9", b="net_2")["difference"] == expected
    assert ask_images(answers, study, "highpass cutoff=0.9")["difference"] is None


def test_pages_follow_each_other(answers: Answers, study: dict[str, Any]) -> None:
    pages = [ask_images(answers, study, "clean", offset=offset, limit=16)["tiles"] for offset in (0, 16, 32, 48)]
    assert [tile["index"] for page in pages for tile in page] == list(range(40))


def test_errors_come_with_the_most_confident_first(answers: Answers, study: dict[str, Any]) -> None:
    tiles = ask_images(answers, study, "lowpass cutoff=0.2", selection="errors")["tiles"]
    answers_a = [next(answer for answer in tile["answers"] if answer["model"] == "net_0") for tile in tiles]
    assert not any(answer["right"] for answer in answers_a)
    confidences = [answer["confidence"] for answer in answers_a]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] > confidences[-1]


def test_of_several_studies_the_one_that_ran_last_is_shown_and_the_others_can_be_chosen(tmp_path: Path) -> None:
    images = image_set(3, labels=[0, 1, 2])
    for name, predicted in (("one", [0, 1, 2]), ("two", [0, 1, 1]), ("one", [0, 1, 2])):
        database = database_of(tmp_path, images, [part(cell(images, by=model(name)), predicted, [0, 0, 0])], name)
    with open_answers(database) as answers:
        newest, second = answers.study(None), answers.study("two")
    assert (newest["study"], newest["studies"]) == ("one@1", ["one@1", "two@1"])
    assert [[model["name"] for model in study["models"]] for study in (newest, second)] == [["one"], ["two"]]


def test_classes_are_called_what_they_are_for_the_model_that_names_them(tmp_path: Path) -> None:
    """The names of ImageNet are those of its 1000 classes, and a set's own names those of all its models."""
    large_model, small_model = model("large", classes=1000), model("small", classes=37)
    plain, labelled = image_set(2, name="plain"), image_set(2, name="labelled", labels=[0, 1])
    pets = replace(image_set(2, name="own", labels=[1, 0]), class_names=["Abyssinian", "Bengal"])
    parts = [part(cell(plain, by=by), [0, 1]) for by in (large_model, small_model)]
    parts += [part(cell(images, by=small_model), [0, 1], [0, 0]) for images in (labelled, pets)]
    names = {"all": {0: "tench", 1: "goldfish"}}
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "s", [plain, labelled, pets], parts, names)
    with open_answers(tmp_path / "results.duckdb") as answers:
        clean = condition(answers.study("s"), "clean")["id"]

        def tile_texts(images: str, by: str) -> list[list[str]]:
            tiles = answers.images(ImageQuery("s", images, clean, by, None, "all", None, ["large", "small"]))["tiles"]
            return [[tile["label"], *(answer["answer"] for answer in tile["answers"])] for tile in tiles]

        texts = [tile_texts("plain", "large"), tile_texts("labelled", "small"), tile_texts("own", "small")]
        class_names = [
            [entry["name"] for entry in answers.filters("s", images)["classes"]] for images in ("labelled", "own")
        ]
    assert texts == [
        [[None, "tench", "class 0"], [None, "goldfish", "class 1"]],
        [["class 0", "class 0"], ["class 1", "class 1"]],
        [["Bengal", "Abyssinian"], ["Abyssinian", "Bengal"]],
    ]
    assert class_names == [["0", "1"], ["Abyssinian", "Bengal"]]


def pixels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_noise_is_that_of_the_run(explored: Path, answers: Answers, study: dict[str, Any]) -> None:
    """The predictions that the run stored are those of a small model on the pictures that are shown."""
    import onnxruntime

    words = "critical_band noise_sd=0.16, frequency=2"
    reply = ask_images(answers, study, words, limit=40)
    pictures = [
        pixels(answers.picture(reply["digest"], tile["index"], condition(study, words)["id"], reply["seed"]))
        for tile in reply["tiles"]
    ]
    session = onnxruntime.InferenceSession(explored / "models" / "net_0.onnx")
    batch = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    (logits,) = session.run(None, {"images": batch})
    names = [answer["answer"] for tile in reply["tiles"] for answer in tile["answers"] if answer["model"] == "net_0"]
    agree = np.mean([f"class {index}" == name for index, name in zip(logits.argmax(1), names, strict=True)])
    assert agree > 0.95, "a picture has 8 bits, and the run had floats: hardly more than one may differ"
    reseeded = pixels(answers.picture(reply["digest"], 0, condition(study, words)["id"], reply["seed"] + 1))
    assert np.abs(reseeded.astype(int) - pictures[0]).mean() > 5


def test_images_of_a_study_with_a_limit_are_found_in_the_whole_set(limited: Path) -> None:
    images = open_image_set(limited / "images.set")
    with open_answers(limited / "results.duckdb", limited) as answers:
        study = answers.study(None)
        assert [(entry["n"], entry["pictures"]) for entry in study["image_sets"]] == [(5, True)]
        words = condition(study, "critical_band noise_sd=0.16, frequency=2")["id"]
        reply = answers.images(ImageQuery("few", "images", words, "net", None, "all", None, ["net"]))
        assert len(reply["tiles"]) == 5
        for tile in reply["tiles"]:
            index = images.paths.index(tile["path"])
            tile_pixels = pixels(answers.picture(reply["digest"], tile["index"], None, reply["seed"]))
            assert np.array_equal(tile_pixels, images.pixels[index].transpose(1, 2, 0))
            noisy = pixels(answers.picture(reply["digest"], tile["index"], words, reply["seed"]))
            assert np.array_equal(noisy, pixels(answers.picture(images.info.digest, index, words, reply["seed"])))
        with pytest.raises(UsageError, match="no such image"):
            answers.picture(reply["digest"], 5, None, 0)


def test_a_database_that_a_run_has_renewed_is_read_again(tmp_path: Path) -> None:
    images, accuracies = image_set(2, labels=[0, 0]), []
    database, replacement = (
        database_of(tmp_path, images, [part(cell(images), ranks, ranks)], file=f"{sum(ranks)}.duckdb")
        for ranks in ([0, 0], [0, 1])
    )
    with open_answers(database) as answers:
        accuracies += answers.study(None)["accuracy"]["top1"]
        replacement.replace(database)
        accuracies += answers.study(None)["accuracy"]["top1"]
    assert accuracies == [1, 0.5]


def test_images_that_no_set_has_are_not_shown(limited: Path, explored: Path) -> None:
    with open_answers(limited / "results.duckdb", explored) as answers:
        assert [entry["pictures"] for entry in answers.study(None)["image_sets"]] == [False]


def test_probes_of_ones_own_need_their_study_file(explored: Path, answers: Answers, study: dict[str, Any]) -> None:
    blur = condition(study, "blur width=2")
    assert blur["unseen"] == "blur is a probe of one's own; name the study file that has it"
    images = open_image_set(explored / "images.set")
    with pytest.raises(UsageError, match="study file"):
        answers.picture(images.info.digest, 0, blur["id"], 0)
    with open_answers(explored / "results.duckdb", explored, explored / "small.toml") as answers_with_file:
        picture = pixels(answers_with_file.picture(images.info.digest, 0, blur["id"], 0))
    padded = np.pad(images.pixels[0].transpose(1, 2, 0) / 255, ((0, 0), (2, 2), (0, 0)), mode="edge")
    expected = np.stack([padded[:, k : k + 128] for k in range(5)]).mean(axis=0)
    assert np.abs(picture / 255 - expected).max() < 1 / 255


def test_coefficients_are_those_of_the_chosen_models(explored: Path, tmp_path: Path) -> None:
    """The networks are random, and their biases at chance, unless it is said that they are not."""
    path, bias = Path(shutil.copy(explored / "results.duckdb", tmp_path)), "corrected_spectral_bias"
    with open_store(path) as store:
        store.execute("UPDATE measure_value SET state = 'ok', value = checkpoint * checkpoint WHERE metric = ?", [bias])
    with open_answers(path) as answers:
        study = answers.study(None)
        rows, titles, group = study["metrics"]["rows"], study["metrics"]["titles"], study["metrics"]["groups"][0]
        choices = (NAMES, NAMES[:4])
        correlations = [answers.correlation("small", bias, group, models) for models in choices]
    assert titles[bias] == "spectral bias above chance"
    assert "spectral_bias" not in titles, "of few classes, the one above chance takes its place"
    for models, correlation in zip(choices, correlations, strict=True):
        selection = [row for row in rows if row["checkpoint"] in models]
        assert correlation["n"] == len(models)
        expected = spearmanr([row[bias] for row in selection], [row[group] for row in selection]).statistic
        assert correlation["coefficient"] == pytest.approx(expected)


def test_wrong_answers_are_marked_with_and_without_the_perturbation(tmp_path: Path) -> None:
    images, blurred = image_set(4, labels=[0, 1, 2, 3]), made_up_condition("lowpass", cutoff=0.1)
    parts = [part(cell(images), [0, 1, 5, 5], [0, 0, 2, 2]), part(cell(images, blurred), [0, 7, 2, 7], [0, 3, 0, 3])]
    with open_answers(database_of(tmp_path, images, parts)) as answers:
        study = answers.study(None)
        digest = next(entry["id"] for entry in study["conditions"] if entry["probe"] == "lowpass")
        tiles = answers.images(ImageQuery("s", "set", digest, "net", None, "all", None, ["net"]))["tiles"]
    marks = [(answer["clean_right"], answer["right"]) for tile in tiles for answer in tile["answers"]]
    assert marks == [(True, True), (True, False), (False, True), (False, False)]


def test_images_are_chosen_by_the_classes_of_every_scheme(tmp_path: Path) -> None:
    cats, elephants = 3, 7
    images = image_set(3, labels=[cats, cats, elephants], schemes={"texture": [[elephants], [cats], [cats]]})
    with open_answers(database_of(tmp_path, images, [part(cell(images), [3, 3, 3], [0, 0, 1])])) as answers:
        clean = condition(answers.study(None), "clean")["id"]

        def indices(scheme: str | None, label: int) -> list[int]:
            query = ImageQuery("s", "set", clean, "net", None, "all", label, ["net"], scheme=scheme)
            return [tile["index"] for tile in answers.images(query)["tiles"]]

        classes = [(row["scheme"], row["class"]) for row in answers.filters("s", "set")["classes"]]
        images_by_class = [indices(scheme, label) for scheme, label in classes]
        assert indices(None, cats) == [0, 1]
    assert classes == [("shape", cats), ("shape", elephants), ("texture", cats), ("texture", elephants)]
    assert images_by_class == [[0, 1], [2], [1, 2], [0]]


def test_images_are_chosen_by_their_attributes(tmp_path: Path) -> None:
    slices = {("site", "A"): np.array([0, 2]), ("site", "B"): np.array([1])}
    images = replace(image_set(4, labels=[0] * 4), attributes=slices)
    with open_answers(database_of(tmp_path, images, [part(cell(images), [0, 1, 0, 0], [0, 1, 0, 0])])) as answers:
        clean = condition(answers.study(None), "clean")["id"]
        filters = answers.filters("s", "set")["attributes"]
        assert filters == [{"name": "site", "value": "A"}, {"name": "site", "value": "B"}]
        for choice, indices in ((None, [0, 1, 2, 3]), ("A", [0, 2]), ("B", [1]), ("C", [])):
            query = ImageQuery("s", "set", clean, "net", None, "all", None, ["net"])
            query = replace(query, attribute=choice and "site", attribute_value=choice)
            assert [tile["index"] for tile in answers.images(query)["tiles"]] == indices


def test_an_opened_image_has_the_seven_shares_of_the_view(sample: Path) -> None:
    with open_answers(sample) as answers:
        shares = answers.octaves("octaves", "photographs", 7)
    query = "SELECT checkpoint, list(share ORDER BY octave) FROM octave_share WHERE image_index = 7 GROUP BY checkpoint"
    assert shares == dict(ask(sample, query))
    assert [len(numbers) for numbers in shares.values()] == [7] * 4


def test_an_opened_image_has_no_shares_of_models_at_chance(sample: Path, tmp_path: Path) -> None:
    """The report draws none of them either."""
    path = Path(shutil.copy(sample, tmp_path))
    query = "UPDATE measure_value SET state = 'at_chance' WHERE checkpoint = (SELECT id FROM checkpoint WHERE name = ?)"
    with open_store(path) as store:
        store.execute(query, ["SqueezeNet-1.1"])
    with open_answers(path) as answers:
        assert sorted(answers.octaves("octaves", "photographs", 7)) == [f"EfficientNet-Lite{k}" for k in range(3)]
