"""The verdict is made of estimates with intervals and states, and says what is not determined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, condition, image_set, model, part, store_study

import bandlens
from bandlens.analysis.comparison.cells import Run, two_of
from bandlens.analysis.comparison.runs import compare_runs
from bandlens.analysis.comparison.verdict import FEW, estimate_in_words, verdict
from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.base import REMEDIES, Options, State
from bandlens.analysis.measures.compute import compute_measures
from bandlens.analysis.measures.registry import GRID_MEASURES
from bandlens.core.protocol import BIAS_CUTOFFS

SHAPES = {"benchmark": "cue-conflict", "decision_space": "sixteen"}
LOWEST = condition("lowpass", cutoff=0.1)


def study(
    path: Path,
    middles: dict[str, float],
    classes: int = 1000,
    share: float = 0.8,
    labelled: bool = True,
    cutoffs: Sequence[float] = BIAS_CUTOFFS,
) -> str:
    """Models that recognize a share of images, of which a low-pass leaves those that need no more than its cut."""
    n = 400
    truth = [k % min(classes, 7) for k in range(n)]
    images, parts = image_set(n, name="photos", labels=truth if labelled else None), []
    for name, middle in middles.items():
        rng = np.random.default_rng(3)
        clean, needed = rng.random(n) < share, middle * 2 ** rng.logistic(scale=0.3, size=n)
        for setting in (condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in cutoffs)):
            right = clean & (needed <= int(112 * (setting.number("cutoff") or 10)))
            rank = (~right).astype(int)
            decided = np.where(right, truth, (np.array(truth) + 1) % classes)
            parts.append(
                part(cell(images, setting, by=model(name, classes=classes)), decided, rank if labelled else None)
            )
    with open_store(path) as store:
        label = store_study(store, "s", images, parts)
        compute_measures(store, label, Options(200))
    return label


def sentences(path: Path) -> list[str]:
    with bandlens.open(path) as results:
        return results.verdict("s")


def test_a_share_that_rounds_to_0_has_no_sign() -> None:
    row = {"metric": "octave_share_0", "state": "ok", "value": -0.003, "low": -0.02, "high": 0.004, "labelled": True}
    assert estimate_in_words(row) == "owes 0 % [-2, 0] of all images to octave 0"


def test_each_model_is_told_by_the_cut_that_leaves_half_with_its_interval(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {"net": 30})
    (first, *rest) = sentences(tmp_path / "r.duckdb")
    assert first.startswith("net keeps half of its accuracy above chance on frequencies below 29 [28, 30]")
    assert first.endswith(" cycles per image, on photos.")
    assert rest == []


def test_two_models_are_told_apart(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {"coarse": 20, "fine": 40})
    coarse, fine, between = sentences(tmp_path / "r.duckdb")
    assert (coarse.split()[0], fine.split()[0]) == ("coarse", "fine")
    assert between.startswith("Compared with coarse, fine relies less on low frequencies: -0.")


def test_of_many_models_the_ends_are_told(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {f"net{k}": 18 + 4 * k for k in range(FEW + 1)})
    (sentence,) = sentences(tmp_path / "r.duckdb")
    assert sentence.startswith("Of 6 models, net0 keeps half")
    assert "at one end and net5 keeps half" in sentence


def test_models_that_guess_are_not_told_but_named(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {"net": 30}, classes=2, share=0.5)
    assert sentences(tmp_path / "r.duckdb") == [
        "Not determined for net: cut of low-passes that leaves half, since "
        "clean accuracy is not told from that of a blind guess, 0.5; "
        "check that the labels are numbered as the classes of the model are, or run more images."
    ]


def test_without_labels_it_is_agreement(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {"net": 30}, labelled=False)
    (sentence,) = sentences(tmp_path / "r.duckdb")
    assert "of its clean predictions on frequencies below 25 [24, 27]" in sentence


def test_a_cut_below_the_tested_ones_is_told_as_that(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {"net": 2})
    sentence, advice = sentences(tmp_path / "r.duckdb")
    assert sentence.startswith("net keeps half or more of its accuracy above chance on frequencies below 11 cycles")
    assert advice == (
        "Not determined for net: cut of low-passes that leaves half, since half or more is left even at 11 cycles per "
        "image; add a lowpass that cuts lower."
    )


def test_below_one_cycle_there_is_nothing_to_add(tmp_path: Path) -> None:
    study(tmp_path / "r.duckdb", {"net": 0.3}, cutoffs=(0.01, 0.1))
    _, advice = sentences(tmp_path / "r.duckdb")
    assert advice.endswith("since half or more is left even at 1 cycle per image; nothing lower can be tested.")


def test_of_two_runs_it_says_what_differs_and_what_is_not_determined_in_one(tmp_path: Path) -> None:
    label = study(tmp_path / "r.duckdb", {"coarse": 20, "fine": 40, "guess": 2})
    with open_store(tmp_path / "r.duckdb", read_only=True) as store:
        run = Run(store, label)
        between = compare_runs(*two_of(run, run, "checkpoint", "coarse", "fine")).verdict
        beside = compare_runs(*two_of(run, run, "checkpoint", "fine", "guess")).verdict
    assert "; it needs more of the high frequencies to keep half of its accuracy: +" in between.findings[0]
    assert between.findings[0].endswith("] cycles per image.")
    assert between.undetermined == []
    (advice,) = beside.undetermined
    assert advice.startswith("Not determined for guess: cut of low-passes that leaves half, since ")
    assert advice.endswith("; add a lowpass that cuts lower.")


@pytest.mark.parametrize("analyzed", [False, True])
def test_a_study_without_filters_says_what_to_do(tmp_path: Path, analyzed: bool) -> None:
    images = image_set(4, labels=[1, 2, 3, 4])
    with open_store(tmp_path / "r.duckdb") as store:
        label = store_study(store, "s", images, [part(cell(images), [1, 2, 3, 4], [0] * 4)])
        if analyzed:
            compute_measures(store, label)
        assert verdict(store, label).sentences == [
            f"Nothing is determined yet: run a study with filters, then `bandlens analyze --db {tmp_path}/r.duckdb`."
        ]


def test_every_state_that_determines_nothing_says_what_to_do() -> None:
    for measure in GRID_MEASURES:
        if (words := measure.shown.words).verdict:
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
    with open_store(tmp_path / "r.duckdb") as store:
        compute_measures(store, store_study(store, "s", images, parts))
        low, high = store.frame("SELECT 100 * low, 100 * high FROM metric WHERE metric = 'shape_bias'").row(0)
    assert sentences(tmp_path / "r.duckdb") == [
        f"net decides by shape on 38 % [{low:.0f}, {high:.0f}] of the images that it names by shape or texture, "
        "on conflict."
    ]


def test_what_is_not_determined_names_its_images_where_a_study_has_several_sets(tmp_path: Path) -> None:
    parts, sets = [], [image_set(100, name=name, labels=[0] * 100, benchmark=name) for name in ("fog", "snow")]
    for images, shares in zip(sets, ((0.9, 0.8, 0.8), (0.9, 0.2, 0.8)), strict=True):
        for setting, share in zip((condition(), LOWEST, condition("lowpass", cutoff=0.5)), shares, strict=True):
            rank = (np.arange(100) >= 100 * share).astype(int)
            parts.append(part(cell(images, setting, by=model("net", classes=1000)), rank, rank))
    with open_store(tmp_path / "r.duckdb") as store:
        compute_measures(store, store_study(store, "s", sets, parts), Options(200))
    *_, advice = sentences(tmp_path / "r.duckdb")
    assert advice.startswith("Not determined for net on fog: cut of low-passes that leaves half, since half or more")


def test_a_cut_at_the_end_of_the_tested_ones_has_its_interval_where_it_reaches_beyond(tmp_path: Path) -> None:
    """The lowest low-pass leaves 46 of 90: some resamples have less than half there, and a cut above it."""
    images, parts = image_set(100, name="photos", labels=[0] * 100), []
    for setting, count in ((condition(), 90), (LOWEST, 46), (condition("lowpass", cutoff=0.5), 90)):
        rank = (np.arange(100) >= count).astype(int)
        parts.append(part(cell(images, setting, by=model("net", classes=1000)), rank, rank))
    with open_store(tmp_path / "r.duckdb") as store:
        compute_measures(store, store_study(store, "s", images, parts), Options(200))
        high = store.frame("SELECT high FROM metric WHERE metric = 'lowpass_half_cut'").item()
    assert high > 12
    assert (
        f"keeps half or more of its accuracy above chance on frequencies below 11 [11, {high:.0f}] cycles"
        in (sentences(tmp_path / "r.duckdb")[0])
    )


def test_two_databases_with_a_study_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name, middle in (("old", 40), ("new", 20)):
        study(tmp_path / f"{name}.duckdb", {"net": middle})
    with (
        open_store(tmp_path / "old.duckdb", read_only=True) as old,
        open_store(tmp_path / "new.duckdb", read_only=True) as new,
    ):
        (finding,) = compare_runs(Run(old, "s@1"), Run(new, "s@1")).verdict.findings
    assert finding.startswith("Compared with s@1 of old.duckdb, net in s@1 of new.duckdb relies more on low")
