"""The verdict is made of estimates with intervals and states, and says what is not determined."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part
from small import ask

import bandlens
from bandlens.analysis.comparison.cell_pairs import CELLS, Run, two_of
from bandlens.analysis.comparison.runs import compare_runs
from bandlens.analysis.comparison.verdict import (
    NAMED_MODELS,
    difference_in_words,
    differences_in_words,
    estimate_in_words,
    value_in_words,
)
from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.base import REMEDIES, State
from bandlens.analysis.metrics.registry import GRID_MEASURES
from bandlens.core.protocol import BIAS_CUTOFFS

SHAPES = {"benchmark": "cue-conflict", "decision_space": "sixteen"}


def study(
    folder: Path,
    middles: dict[str, float],
    classes: int = 1000,
    share: float = 0.8,
    labelled: bool = True,
    cutoffs: Sequence[float] = BIAS_CUTOFFS,
    file: str = "results.duckdb",
) -> Path:
    """Models that recognize a share of images, of which a low-pass leaves those that need no more than its cut."""
    n = 400
    truth = [k % min(classes, 7) for k in range(n)]
    images, parts = image_set(n, name="photos", labels=truth if labelled else None), []
    for name, middle in middles.items():
        rng = np.random.default_rng(3)
        clean, thresholds = rng.random(n) < share, middle * 2 ** rng.logistic(scale=0.3, size=n)
        for setting in (condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in cutoffs)):
            hits = clean & (thresholds <= int(112 * (setting.number("cutoff") or 10)))
            rank = (~hits).astype(int)
            decided = np.where(hits, truth, (np.array(truth) + 1) % classes)
            parts.append(
                part(cell(images, setting, by=model(name, classes=classes)), decided, rank if labelled else None)
            )
    return database_of(folder, images, parts, file=file, measured=True)


def sentences(path: Path) -> list[str]:
    with bandlens.open(path) as results:
        return results.verdict("s")


def test_a_share_that_rounds_to_0_has_no_sign() -> None:
    row = {"metric": "octave_share_0", "state": "ok", "value": -0.003, "low": -0.02, "high": 0.004, "labelled": True}
    assert estimate_in_words(row) == "owes 0 % [-2, 0] of all images to octave 0"


def test_a_cut_whose_interval_reaches_among_the_tested_ones_is_told_by_its_other_end() -> None:
    row = {"metric": "highpass_half_cut", "state": "censored_below", "value": 1, "low": 1, "high": 8, "labelled": True}
    assert str(estimate_in_words(row)).endswith(" accuracy on frequencies above at most 8 cycles per image")
    row |= {"metric": "lowpass_half_cut", "state": "censored_above", "value": 100, "low": 78, "high": 100}
    assert str(estimate_in_words(row)).endswith(" accuracy on frequencies below at least 78 cycles per image")


def test_two_models_are_told_by_the_cut_that_leaves_half_and_what_differs(tmp_path: Path) -> None:
    comparison, coarse, fine = sentences(study(tmp_path, {"coarse": 30, "fine": 40}))
    assert coarse.startswith("coarse keeps half of its above-chance accuracy on frequencies below 29 [28, 30]")
    assert coarse.endswith(" cycles per image, on photos.")
    assert fine.split()[0] == "fine"
    assert comparison.startswith(
        "Compared with coarse, fine is less accurate in 4 of 5 perturbed cells, at most by -0."
    )
    assert "; it relies less on low frequencies: -0." in comparison
    with open_store(tmp_path / "results.duckdb") as store:
        store.execute('UPDATE study SET toml = \'checkpoints = ["fine", "coarse"]\'')
    assert sentences(tmp_path / "results.duckdb")[0].startswith("Compared with fine, coarse is more accurate in 4 of 5")


def test_many_models_of_which_the_same_is_true_are_told_at_once(tmp_path: Path) -> None:
    (sentence, _) = sentences(study(tmp_path, {f"net{k}": 2 for k in range(NAMED_MODELS + 1)}))
    assert sentence.startswith("Each of 6 models keeps half of its above-chance accuracy even on frequencies below 11")


def test_the_first_sentence_on_several_models_has_both_ends_one_of_them_beyond_what_was_tested(tmp_path: Path) -> None:
    first, *each, _ = sentences(study(tmp_path, {"coarse": 15, "middle": 30, "fine": 200}, cutoffs=(0.1, 0.2, 0.5)))
    assert first.startswith("Of 3 models, coarse keeps half of its above-chance accuracy on frequencies below 1")
    beyond = "fine keeps half of its above-chance accuracy only with frequencies beyond 56 cycles per image"
    assert first.endswith(f" at one end and {beyond} at the other, on photos.")
    assert [sentence.split()[0] for sentence in each] == ["coarse", "fine", "middle"]


def test_the_first_sentence_on_several_models_is_of_a_measure_that_tells_them_apart(sample: Path) -> None:
    with bandlens.open(sample) as results:
        octaves, groups = results.verdict("octaves")[0], results.verdict("groups")[0]
    assert octaves.startswith("Of 4 models, SqueezeNet-1.1 owes 13 % [9, 16] of all images to octave 4 at one end and")
    assert groups.endswith(" at the other; these intervals overlap, on groups-test.set.")


def test_measures_that_lack_the_same_are_counted_where_they_are_many(sample: Path) -> None:
    with bandlens.open(sample) as results:
        (advice,) = results.verdict("octave-masks")
    assert advice.endswith(
        ": accuracy owed to octave 0 and 6 more, since octaves lacks 113 of its 127 masks; leave out keep; add what is "
        "lacking to the study file and run it."
    )


def test_the_first_sentence_counts_the_models_of_which_nothing_is_determined(tmp_path: Path) -> None:
    middles = {"coarse": 15, "fine": 30, "hidden": 30}
    database = study(tmp_path, middles)
    with open_store(database) as store:
        name = "(SELECT checkpoint FROM study_checkpoint WHERE name = 'hidden')"
        store.execute(f"UPDATE measure_value SET state = 'at_chance' WHERE checkpoint = {name}")
    first, *each, _ = sentences(database)
    assert first.startswith("Of the 2 determined of 3 models, coarse keeps half of its above-chance accuracy on ")
    assert [sentence.split()[0] for sentence in each] == ["coarse", "fine"]


def test_models_that_guess_are_not_told_but_named(tmp_path: Path) -> None:
    assert sentences(study(tmp_path, {"net": 30}, classes=2, share=0.5)) == [
        "Not determined for net: cut of low-passes that leaves half, since "
        "accuracy without perturbation is not told from that of a blind guess, 0.5; check that labels are numbered as "
        "the classes of the model are, or run more images."
    ]
    (advice,) = sentences(study(tmp_path, {"net": 30}, classes=1, labelled=False, file="unlabelled.duckdb"))
    assert ", 1: all images have the same answer; check that the model is normalized as in its training" in advice


def test_without_labels_it_is_agreement(tmp_path: Path) -> None:
    (sentence,) = sentences(study(tmp_path, {"net": 30}, labelled=False))
    assert "of its above-chance agreement on frequencies below 28 [26, 29]" in sentence


def test_a_cut_below_the_tested_ones_is_told_as_that(tmp_path: Path) -> None:
    sentence, advice = sentences(study(tmp_path, {"net": 2}))
    assert sentence.startswith("net keeps half of its above-chance accuracy even on frequencies below 11 cycles")
    assert advice == (
        "Not determined for net: cut of low-passes that leaves half, since half or more is left even at 11 cycles per "
        "image; add a lowpass that cuts lower: a smaller cutoff in the line lowpass of the study file."
    )


def test_of_two_runs_it_says_what_differs_and_what_is_not_determined_in_one(tmp_path: Path) -> None:
    path = study(tmp_path, {"coarse": 20, "fine": 40, "guess": 2})
    with open_store(path, read_only=True) as store:
        run = Run(store, "s@1")
        verdict = compare_runs(*two_of(run, run, "checkpoint", "coarse", "fine")).verdict
        guess_verdict = compare_runs(*two_of(run, run, "checkpoint", "fine", "guess")).verdict
    assert "; it needs more of the high frequencies to keep half of its accuracy: +" in verdict.findings[0]
    assert verdict.undetermined == []
    (advice,), (told,) = guess_verdict.undetermined, guess_verdict.findings
    assert advice.startswith("Not determined for guess: cut of low-passes that leaves half, since ")
    assert re.search("it needs less of the high frequencies to keep half of its accuracy: beyond -[0-9.]+ cycles", told)


def test_a_study_without_filters_says_what_to_do(tmp_path: Path) -> None:
    (sentence,) = sentences(study(tmp_path, {"net": 20}, cutoffs=()))
    assert sentence.startswith("Nothing is determined yet: run a study with filters at several cutoffs, then `")


def test_every_state_that_determines_nothing_says_what_to_do() -> None:
    for measure in GRID_MEASURES:
        if (words := measure.display.words).verdict:
            assert {*REMEDIES, *words.remedies} == {*State} - {State.OK, State.DOUBTFUL}


def test_shape_bias_is_told_in_place_of_filters_where_cues_conflict(tmp_path: Path) -> None:
    """A model names 30 of 100 images by shape and 50 by texture, filtered or not."""
    images = image_set(
        100, name="conflict", schemes={"shape": [[0]] * 100, "texture": [[1]] * 100}, labels=[0] * 100, **SHAPES
    )
    decided = [0] * 30 + [1] * 50 + [2] * 20
    rank = [int(number != 0) for number in decided]
    settings = (condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in BIAS_CUTOFFS))
    parts = [part(cell(images, setting), decided, rank) for setting in settings]
    path = database_of(tmp_path, images, parts, measured=True)
    [(low, high)] = ask(path, "SELECT 100 * low, 100 * high FROM metric WHERE metric = 'shape_bias'")
    assert sentences(path) == [
        f"net decides by shape on 38 % [{low:.0f}, {high:.0f}] of the images that it names by shape or texture, "
        "on conflict."
    ]


def test_two_databases_with_a_study_of_one_name_are_told_apart(tmp_path: Path) -> None:
    middles = {"old": {"net": 150}, "new": {"net": 2, "alone": 2}}
    paths = [study(tmp_path, middles[name], file=f"{name}.duckdb") for name in middles]
    with open_store(paths[0], read_only=True) as store_a, open_store(paths[1], read_only=True) as store_b:
        verdict = compare_runs(Run(store_a, "s@1"), Run(store_b, "s@1")).verdict
    (finding,) = verdict.findings
    assert [line.split(":")[0] for line in verdict.undetermined] == [
        f"Not determined for net in s@1 of {tmp_path / name}.duckdb" for name in ("old", "new")
    ]
    assert finding.startswith(
        f"Compared with s@1 of {paths[0]}, net in s@1 of {paths[1]} is more accurate in 5 of 5 per"
    )


# The sentence on two runs

METRIC = ("checkpoint", "image_set", "metric", "difference", "low", "high", "state_a", "state_b")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[tuple[Run, Run]]:
    """The runs have the names that the sentence says; it reads what their study ran, and no number of theirs."""
    images = [image_set(2, name=name, labels=labels) for name, labels in (("set", [0, 0]), ("photos", None))]
    parts = [
        part(cell(entry, setting, by=model("v2")), [0, 0], rank)
        for entry, rank in zip(images, ([0, 0], None), strict=True)
        for setting in (condition(), condition("lowpass", cutoff=0.3))
    ]
    with open_store(database_of(tmp_path, images, parts)) as store:
        yield Run(store, "s@1", "checkpoint", "v1", "v1, v2"), Run(store, "s@1", "checkpoint", "v2", "v1, v2")


def metrics(*rows: Sequence[object]) -> pl.DataFrame:
    types = [pl.String] * 3 + [pl.Float64] * 3 + [pl.String] * 2
    frame = pl.DataFrame(list(rows), dict(zip(METRIC, types, strict=True)), orient="row")
    return frame.with_columns(detectable=pl.col("high") - pl.col("low"))


def cells(*rows: Sequence[object]) -> pl.DataFrame:
    """Cells of two runs, from rows of (image set, probe, difference, p_holm)."""
    columns = ("image_set", "probe", "difference", "p_holm")
    frame = pl.DataFrame(list(rows), {name: CELLS[name] for name in columns}, orient="row")
    return frame.with_columns(
        checkpoint=pl.lit("v1, v2"),
        p="p_holm",
        parameters=pl.when(pl.col("probe") == "clean").then(pl.lit("{}")).otherwise(pl.lit('{"cutoff": 0.3}')),
        cycles=pl.when(pl.col("probe") == "clean").then(None).otherwise(33.0),
        low=pl.col("difference") - 0.01,
        high=pl.col("difference") + 0.01,
        detectable=pl.col("difference").abs(),
    )


def conditions(*rows: Sequence[object]) -> pl.DataFrame:
    """Numbers of sound conditions, from rows of (metric, probe, difference, low, high)."""
    types = {
        name: pl.String if name in ("metric", "probe") else pl.Float64 for name in ("metric", "probe", *METRIC[3:6])
    }
    frame = pl.DataFrame(list(rows), types, orient="row")
    keys = cells(*(("set", probe, 0.0, 1.0) for _, probe, *_ in rows)).select("parameters", "cycles")
    states = [pl.lit("ok").alias(name) for name in ("state_a", "state_b")]
    names = [pl.lit("v1, v2").alias("checkpoint"), pl.lit("set").alias("image_set")]
    return pl.concat([frame, keys], how="horizontal").with_columns(*names, *states)


LOW = ("v1, v2", "set", "low_frequency_bias", -0.021, -0.034, -0.008, "ok", "ok")


def test_nothing_is_found_with_two_images(tmp_path: Path) -> None:
    """Not even a difference of 1, so that no number above it is told."""
    images = image_set(2, labels=[0, 0])
    nets = {"a": [0, 0], "b": [0, 1]}
    parts = [part(cell(images, by=model(name)), rank, rank) for name, rank in nets.items()]
    with open_store(database_of(tmp_path, images, parts)) as store:
        comparison = compare_runs(*two_of(Run(store, "s@1"), Run(store, "s@1"), "checkpoint", *nets))
    low, high = comparison.cells.select("low", "high").row(0)
    assert comparison.verdict.findings == [
        "No difference in accuracy was found between a and b in 1 cell (none could have been); the interval of "
        f"accuracy that reaches farthest is -0.500 [{low:+.3f}, {high:+.3f}] without perturbation."
    ]
    assert comparison.cells["detectable"].to_list() == [None]


def test_the_biases_that_differ_beyond_chance_are_told_with_their_intervals(runs: tuple[Run, Run]) -> None:
    sentence = differences_in_words(*runs, cells(), metrics(LOW), conditions())
    assert sentence == "Compared with v1, v2 relies less on low frequencies: -0.021 [-0.034, -0.008]"
    high = ("v1, v2", "set", "high_frequency_bias", 0.1, 0.05, 0.15, "ok", "ok")
    shape = ("v1, v2", "cue", "shape_bias", 0.1, -0.01, 0.21, "ok", "ok")
    cut = ("v1, v2", "set", "highpass_half_cut", -2, -3, -1, "ok", "ok")
    clean = cells(("set", "clean", -0.05, 0.01), ("set", "lowpass", -0.3, 0.001))
    assert differences_in_words(*runs, clean, metrics(LOW, high, shape, cut), conditions()) == (
        "Compared with v1, v2 is less accurate without perturbation: -0.050 [-0.060, -0.040]; "
        "it is less accurate under lowpass below 33 cycles/image: -0.300 [-0.310, -0.290]; "
        "it relies less on low frequencies: -0.021 [-0.034, -0.008]; "
        "it relies more on high frequencies: +0.100 [+0.050, +0.150]; "
        "it can lose less of the low frequencies and keep half of its accuracy: -2.0 [-3.0, -1.0] cycles per image"
    )


def test_without_labels_a_model_keeps_answers_and_relies_on_nothing(runs: tuple[Run, Run]) -> None:
    kept = ("v1, v2", "photos", "corrected_low_frequency_bias", 0.2, 0.1, 0.3, "ok", "ok")
    published = (*kept[:2], "low_frequency_bias", 0.3, 0.2, 0.4, "ok", "ok")
    assert differences_in_words(*runs, cells(), metrics(kept, published), conditions()) == (
        "Compared with v1, v2 keeps more of its answers on low frequencies: +0.200 [+0.100, +0.300]"
    )
    at_floor = (*kept[:7], "at_chance")
    assert differences_in_words(*runs, cells(), metrics(at_floor, published), conditions()) is None


def test_agreement_is_none_of_accuracy_beside_labelled_images(runs: tuple[Run, Run]) -> None:
    table = cells(("set", "lowpass", -0.3, 0.001), ("photos", "lowpass", 0.2, 0.001))
    assert differences_in_words(*runs, table, metrics(), conditions()) == (
        "Compared with v1, v2 is less accurate under lowpass below 33 cycles/image on set: -0.300 [-0.310, -0.290]; "
        "it agrees more with its clean predictions under lowpass below 33 cycles/image on photos: "
        "+0.200 [+0.190, +0.210]"
    )
    same = cells(("set", "lowpass", -0.3, 0.2), ("photos", "lowpass", 0.2, 0.2))
    sentence = differences_in_words(*runs, same, metrics(), conditions())
    assert sentence.startswith("No difference in accuracy or agreement was found between v1 and v2 in 2 cells")


@pytest.mark.parametrize(
    ("row", "unmoved"),
    [
        ((*LOW[:4], -0.034, 0.008, "ok", "ok"), ", nor in low-frequency bias (0.042)"),
        ((*LOW[:4], None, None, "ok", "ok"), ""),
        ((*LOW[:6], "ok", "doubtful"), ""),
        (
            ("v1, v2", "set", "critical_bandwidth", -1.0, -2.0, -0.5, "ok", "ok"),
            "; what differs is critical bandwidth: -1.0 [-2.0, -0.5] octaves",
        ),
    ],
)
def test_what_is_chance_or_unsound_is_not_told(runs: tuple[Run, Run], row: Sequence[object], unmoved: str) -> None:
    table = cells(("set", "clean", -0.05, 0.2), ("set", "lowpass", -0.3, 0.3))
    assert differences_in_words(*runs, table, metrics(row), conditions()) == (
        "No difference in accuracy was found between v1 and v2 in 2 cells (one smaller than 0.050 to 0.300, by cell, "
        f"could not have been){unmoved}; the interval of accuracy that reaches farthest is -0.300 [-0.310, -0.290] "
        "under lowpass below 33 cycles/image, which is not corrected for the number of cells"
    )
    assert differences_in_words(*runs, cells(), metrics(row), conditions()) is None


def test_of_several_cases_those_that_differ_are_counted(runs: tuple[Run, Run]) -> None:
    rows = [
        ("v1, v2", f"set{k}", "low_frequency_bias", difference, difference - 0.02, difference + 0.02, "ok", "ok")
        for k, difference in enumerate((-0.1, -0.2, 0.1, 0.0))
    ]
    assert differences_in_words(*runs, cells(), metrics(*rows), conditions()) == (
        "Compared with v1, v2 relies less on low frequencies in 2 of 4 cases, at most by -0.200 [-0.220, -0.180]; "
        "it relies more on low frequencies in 1 of 4 cases, at most by +0.100 [+0.080, +0.120]"
    )
    assert differences_in_words(*runs, cells(("set", "lowpass", -0.3, 0.001)), metrics(), conditions()) == (
        "Compared with v1, v2 is less accurate under lowpass below 33 cycles/image: -0.300 [-0.310, -0.290]"
    )


def test_what_differs_beside_accuracy_is_named_with_its_largest_difference(runs: tuple[Run, Run]) -> None:
    """The third difference would be beyond chance alone, and is not as one of four."""
    numbers = conditions(
        ("expected_calibration_error", "clean", 0.21, 0.17, 0.26),
        ("expected_calibration_error", "lowpass", 0.12, 0.06, 0.18),
        ("confidence", "clean", 0.1, 0.01, 0.19),
        ("slice_accuracy_site=south", "lowpass", -0.1, -0.21, 0.01),
    )
    same = cells(("set", "clean", 0.0, 1.0))
    assert "; what differs is expected calibration error in 2 conditions, at most by +0.210 [+0.170, +0.260] " in (
        sentence := str(differences_in_words(*runs, same, metrics(), numbers))
    )
    assert "confidence" not in sentence
    assert "south" not in sentence


def test_the_worst_slice_and_the_largest_differences_to_both_sides_are_told(runs: tuple[Run, Run]) -> None:
    table = cells(
        ("set", "clean", 0.146, 0.01),
        ("set", "contrast", -0.29, 0.001),
        ("set", "lowpass", -0.16, 0.01),
        ("set", "highpass", 0.1, 0.01),
    )
    slices = conditions(
        ("slice_accuracy_site=south", "lowpass", -0.31, -0.41, -0.21),
        ("slice_accuracy_site=north", "lowpass", -0.11, -0.13, -0.09),
    )
    assert differences_in_words(*runs, table, metrics(), slices) == (
        "Compared with v1, v2 is more accurate without perturbation: +0.146 [+0.136, +0.156]; "
        "it is less accurate in 2 of 3 perturbed cells, at most by -0.290 [-0.300, -0.280] under contrast; "
        "it is more accurate in 1 of 3 perturbed cells, at most by +0.100 [+0.090, +0.110] under highpass; "
        "it loses most on site=south: -0.310 [-0.410, -0.210] under lowpass below 33 cycles/image"
    )


def test_a_loss_under_noise_stands_beside_that_on_the_grey_image_without_noise(sample: Path) -> None:
    with open_store(sample, read_only=True) as store:
        [finding] = compare_runs(Run(store, "grid@1"), Run(store, "grid-int8@1")).verdict.findings
    assert " under critical_band noise_sd=0.04, at 112 cycles/image (noise_sd=0: -0.019 [-0.039, +0.001]); " in finding


def test_a_small_difference_of_a_number_with_a_unit_has_three_digits() -> None:
    row = {"metric": "clean_error_consistency", "difference": -0.013, "low": -0.214, "high": 0.188}
    assert difference_in_words(row).startswith("-0.013 [-0.214, +0.188]")


def test_a_value_beyond_what_was_tested_says_on_which_side() -> None:
    assert [value_in_words(78, f"censored_{side}") for side in ("above", "below")] == [">78", "<78"]
    assert value_in_words(78, "ok") == 78


def test_a_model_that_recognizes_less_of_both_cues_is_not_said_to_decide_by_shape(runs: tuple[Run, Run]) -> None:
    shape = ("v1, v2", "cue", "shape_bias", 0.261, 0.2, 0.32, "ok", "ok")
    equal_accuracy = ("v1, v2", "cue", "cue_accuracy", -0.01, -0.03, 0.01, "ok", "ok")
    lower_accuracy = ("v1, v2", "cue", "cue_accuracy", -0.2, -0.24, -0.16, "ok", "ok")
    other_set = ("v1, v2", "other", *lower_accuracy[2:])
    for accuracy in (equal_accuracy, other_set):
        sentence = differences_in_words(*runs, cells(), metrics(shape, accuracy), conditions())
        assert sentence.startswith("Compared with v1, v2 decides more by shape: +0.261 [+0.200, +0.320]")
    assert differences_in_words(*runs, cells(), metrics(shape, lower_accuracy), conditions()) == (
        "Compared with v1, v2 recognizes less of the two cues: -0.200 [-0.240, -0.160]"
    )
