"""Errors of a blurred model beside those of people, with the blur at which they agree most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_trials, trials_of
from pairs_of_observers import kappa
from small import Command

from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.error_consistency import consistency_under
from bandlens.core.errors import UnknownName, UsageError
from bandlens.core.records import Condition

N, BLURS = 400, (1.0, 3.0, 5.0, 7.0)
COPIED = {1.0: 0.2, 3.0: 0.7, 5.0: 0.2, 7.0: 0.1}
"""Blur -> how many of the first observer's decisions the model copies."""


Answers = tuple[Path, dict[str, np.ndarray], dict[float, np.ndarray]]
"""A database, who of the people has which sketch right, and the model at each blur."""


def store_answers(folder: Path, answers: Mapping[Condition, np.ndarray], trials: Sequence[pl.DataFrame]) -> Path:
    """A database of a model's answers on sketches, and of trials of people."""
    images = image_set(N, name="sketch", labels=[0] * N, benchmark="sketch", paths=[f"n0_{k}.png" for k in range(N)])
    parts = [part(cell(images, setting, by=model("net")), ~hits, ~hits) for setting, hits in answers.items()]
    path = database_of(folder, images, parts)
    with open_store(path) as store:
        store_trials(store, *trials)
    return path


def filter_trials(stimulus_set: str, shares: Mapping[str, float]) -> list[pl.DataFrame]:
    """Trials of a person who has these shares right by condition."""
    return [
        trials_of(stimulus_set, name, "subject-01", np.arange(100) < 100 * share, first=1000 * row)
        for row, (name, share) in enumerate(shares.items())
    ]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A database of sketches that two people saw as they are, and a model blurred."""
    rng = np.random.default_rng(0)
    people = {name: rng.random(N) < 0.75 for name in ("subject-01", "subject-02")}
    by_blur = {
        blur: np.where(rng.random(N) < share, people["subject-01"], rng.random(N) < 0.75)
        for blur, share in COPIED.items()
    }
    conditions = {condition("gaussian_lowpass", sigma=blur): hits for blur, hits in by_blur.items()}
    trials = [trials_of("sketch", "0", name, hits) for name, hits in people.items()]
    trials += filter_trials("low-pass", {"0": 0.9, "3": 0.8, "5": 0.5})
    folder = tmp_path_factory.mktemp("blurred")
    return store_answers(folder, {condition(): rng.random(N) < 0.75} | conditions, trials), people, by_blur


def test_the_blur_with_the_highest_kappa_is_found_with_its_interval(answers: Answers) -> None:
    path, people, by_blur = answers
    with open_store(path, read_only=True) as store:
        tables = consistency_under(store, "sketch", "gaussian_lowpass")
    clean, *blurred = tables["conditions"]
    assert clean["setting"] is None
    assert [row["setting"] for row in blurred] == [*BLURS]
    for row in blurred:
        expected = np.mean([kappa(by_blur[row["setting"]], person) for person in people.values()])
        assert row["kappa"] == pytest.approx(expected)
        assert row["low"] < row["kappa"] < row["high"]
    [peak] = tables["peaks"]
    assert (peak["checkpoint"], peak["setting"], peak["low"], peak["high"]) == ("net", 3, 3, 3)
    assert peak["kappa"] == blurred[1]["kappa"]


def test_conditions_are_placed_by_what_people_lose(answers: Answers) -> None:
    """People have 90 % right without blur, 80 % at 3 and 50 % at 5: a blur of 1 costs a third of what one of 3 does."""
    with open_store(answers[0], read_only=True) as store:
        rows = consistency_under(store, "sketch", "gaussian_lowpass")["conditions"]
    losses = [row["people_lose"] for row in rows]
    assert losses[1:4] == pytest.approx([0.1 / 3, 0.1, 0.4])
    assert (losses[0], losses[4]) == (None, None), "as it is, and outside of what people saw"


def test_people_are_best_without_a_filter_whose_setting_is_infinite(tmp_path: Path) -> None:
    """They have 90 % right without a high-pass, 80 % at 3 and 50 % at 1; no place lies between 3 and infinity."""
    settings: dict[float | str, float | None] = {1.0: 0.4, 2.0: 0.25, 3.0: 0.1, 4.0: None, "inf": 0.0}
    hits = np.random.default_rng(0).random(N) < 0.75
    conditions = {condition("gaussian_highpass", sigma=sigma): hits for sigma in settings}
    trials = [trials_of("sketch", "0", "subject-01", np.arange(N) % 4 > 0)]
    trials += filter_trials("high-pass", {"inf": 0.9, "3": 0.8, "1": 0.5})
    with open_store(store_answers(tmp_path, conditions, trials), read_only=True) as store:
        rows = consistency_under(store, "sketch", "gaussian_highpass")["conditions"]
    losses = {row["setting"]: row["people_lose"] for row in rows}
    assert losses == pytest.approx({float(setting): loss for setting, loss in settings.items()})


def test_of_an_image_that_a_person_saw_twice_the_first_session_counts(tmp_path: Path) -> None:
    """The image was wrong in the ninth trial of the first session, and right in the first trial of the second."""
    first = trials_of("sketch", "0", "subject-01", np.zeros(1, bool)).with_columns(trial=pl.lit(9, pl.Int32))
    second = trials_of("sketch", "0", "subject-01", np.ones(1, bool)).with_columns(session=pl.lit(2, pl.Int32))
    with open_store(store_answers(tmp_path, {condition(): np.ones(N, bool)}, [second, first])) as store:
        assert store.frame("SELECT correct FROM judgement WHERE human").rows() == [(False,)]


def test_a_model_that_is_always_wrong_has_no_kappa_and_no_peak_there(tmp_path: Path) -> None:
    """Elsewhere it errs where people do not: a kappa of 0, if that stood for none, would be the highest."""
    person = np.arange(N) % 4 > 0
    blurred = {1.0: ~person, 9.0: np.zeros(N, bool)}
    conditions = {condition("gaussian_lowpass", sigma=blur): hits for blur, hits in blurred.items()}
    trials = [trials_of("sketch", "0", "subject-01", person)]
    with open_store(store_answers(tmp_path, conditions, trials), read_only=True) as store:
        tables = consistency_under(store, "sketch", "gaussian_lowpass")
    first, last = tables["conditions"]
    assert first["kappa"] == pytest.approx(kappa(blurred[1.0], person))
    assert first["kappa"] < 0
    assert [last[name] for name in ("kappa", "low", "high")] == [None] * 3
    assert [(row["setting"], row["low"], row["high"]) for row in tables["peaks"]] == [(1, 1, 1)]


def test_the_command_prints_both_tables_and_refuses_what_is_not_there(answers: Answers, command: Command) -> None:
    path, _, _ = answers
    answer = command("consistency", "sketch", "--probe", "gaussian_lowpass", "--db", path)
    assert (answer.code, "people_lose" in answer.out, "peaks" in answer.out) == (0, True, True)
    with open_store(path, read_only=True) as store:
        with pytest.raises(UnknownName, match="contrast"):
            consistency_under(store, "sketch", "contrast")
        with pytest.raises(UsageError, match="no people on edge; get them with `bandlens published import humans`"):
            consistency_under(store, "edge", "contrast")
