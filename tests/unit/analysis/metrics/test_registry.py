"""A plan says which metrics a study will have, and `analyze` then finds these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, image_set, model, part, store_study

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics import registry
from bandlens.analysis.metrics.base import Measure
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.registry import Determined, condition_metrics, determined_metrics
from bandlens.core.records import Condition
from bandlens.probes.grid import PUBLISHED, make_grid

GRID = make_grid(PUBLISHED, Path()).conditions
LEVELS = {"noise_sd": [0.0, 0.02, 0.04, 0.08, 0.16]}


def grid(**probes: dict[str, object]) -> tuple[Condition, ...]:
    return make_grid(probes, Path()).conditions


def determine(sets: Sequence[Images], conditions: Sequence[Condition]) -> dict[str, Determined]:
    pairs = [(images.info, setting) for images in sets for setting in conditions]
    schemes, classes = {images.info.digest: images.schemes for images in sets}, model().classes
    plans = determined_metrics(pairs, schemes, classes=dict.fromkeys(schemes, classes))
    return {plan.in_words: plan for plan in plans}


@pytest.mark.parametrize(
    ("conditions", "name", "why"),
    [
        (grid(critical_band=LEVELS), "critical band on set", None),
        (
            grid(critical_band={"noise_sd": [0.0, 0.02, 0.04, 0.08, 0.12]}),
            "critical band on set",
            "critical_band lacks 7 of the 29 conditions that the published estimator takes; leave out noise_sd and "
            "frequency",
        ),
        (grid(critical_band=LEVELS | {"frequency": [0, 1, 2]}), "psychometric thresholds on set", None),
        (
            grid(critical_band={"noise_sd": [0.0, 0.1], "frequency": [1, 2]}),
            "psychometric_threshold_1 on set",
            "critical_band has one level of noise at frequency 1, and a threshold takes 2",
        ),
        (grid(lowpass={"cutoff": [0.1, 0.2, 0.5]}), "low_frequency_bias on set", "lowpass lacks the cutoffs 0.3, 0.4"),
        (grid(lowpass={}), "spectral_bias on set", "it is made of high_frequency_bias"),
    ],
)
def test_what_a_metric_lacks_is_named(conditions: tuple[Condition, ...], name: str, why: str | None) -> None:
    assert determine([image_set(4, labels=[0] * 4)], conditions)[name].why == why


def test_a_study_without_probes_is_told_of_no_metrics_that_need_them() -> None:
    assert determine([image_set(4, labels=[0] * 4)], grid()) == {}


@pytest.mark.parametrize("gap", ["all but a level", "the grey cell", "a cutoff"])
def test_the_plan_is_what_analysis_finds(store: Store, gap: str) -> None:
    """Every metric that is planned is missing where the plan says so, and nowhere else."""
    left_out = {
        "all but a level": lambda setting: setting.number("noise_sd") in {0.02, 0.04, 0.08},
        "the grey cell": lambda setting: setting.number("noise_sd") == 0,
        "a cutoff": lambda setting: setting.probe == "highpass" and setting.number("cutoff") == 0.3,
    }[gap]
    conditions = [setting for setting in GRID if not left_out(setting)]
    conflict = image_set(
        40, labels=[0] * 40, schemes={"texture": [[1]] * 40}, name="conflict", benchmark="cue-conflict"
    )
    sketch = image_set(40, labels=[0] * 40, name="sketch", benchmark="imagenet-sketch")
    sets = [conflict, sketch]
    rng, parts = np.random.default_rng(0), []
    for images in sets:
        for setting in conditions:
            predicted = rng.integers(0, 2, 40)
            parts.append(part(cell(images, setting), predicted, predicted))
    store_study(store, "s", sets, parts)
    metrics = compute_measures(store, "s").filter(pl.col("condition_id").is_null())
    states = {(row["image_set"], row["metric"]): row["state"] for row in metrics.iter_rows(named=True)}
    plans = determine(sets, conditions)
    for plan in plans.values():
        for metric in plan.metrics:
            state = states.get((plan.image_set, metric))
            assert (state in (None, "missing")) == bool(plan.why), (metric, state)
    covered = {(plan.image_set, metric) for plan in plans.values() for metric in plan.metrics}
    assert {key for key in states if "shape_bias_" not in key[1]} <= covered
    assert plans["Concepts"].why == "incomplete: imagenet-r is missing, stylized is missing"


def test_the_plan_of_conditions_is_what_analysis_finds(store: Store) -> None:
    """Images have no labels, labels, ReaL's, or either kind of conflict; unperturbed ones have no such metrics."""
    labels = [k % 2 for k in range(30)]
    second_cues = [[1 - label] for label in labels]
    sets = [
        image_set(30, name="unlabelled"),
        image_set(30, name="labelled", labels=labels),
        image_set(30, name="real", labels=labels, schemes={"real": [[0, 1]] * 30}),
        image_set(30, name="cues", labels=labels, schemes={"texture": second_cues}),
        image_set(30, name="bands", labels=labels, schemes={"hf_label": second_cues}),
        image_set(30, name="clean", labels=labels, clusters=range(1, 31)),
    ]
    rng = np.random.default_rng(0)
    parts = []
    for images in sets:
        for name in ("one", "two"):
            for setting in (condition(), condition("blur", sigma=2))[: 1 if images.info.name == "clean" else 2]:
                predicted = rng.integers(0, 2, 30)
                rank = None if images.labels is None else predicted != labels
                probability = None if rank is None else [0.5] * 30
                outcome = part(cell(images, setting, by=model(name)), predicted, rank, label_probability=probability)
                ranks = np.zeros(30, np.uint16) if "real" in images.schemes else None
                parts.append(replace(outcome, predictions=replace(outcome.predictions, best_rank=ranks)))
    plans = condition_metrics([part.cell for part in parts], {images.info.digest: images.schemes for images in sets})
    store_study(store, "s", sets, parts)
    estimates = compute_measures(store, "s").filter(
        pl.col("condition_id").is_not_null(), pl.col("probe") != "clean", pl.col("image_set").is_not_null()
    )
    assert {name: set(metrics) for name, metrics in plans.items()} == {
        str(name): set(rows["metric"]) for (name,), rows in estimates.group_by("image_set")
    }


def test_every_measure_of_the_folder_is_in_the_registry() -> None:
    """A measure that is not could be computed by nobody, and its own test would pass all the same."""
    folder = registry.__name__.rpartition(".")[0]
    modules = [import_module(f"{folder}.{file.stem}") for file in Path(str(registry.__file__)).parent.glob("[a-z]*.py")]
    values = [value for module in modules for value in vars(module).values()]
    values += [entry for value in values if isinstance(value, tuple | list) for entry in value]
    names = {value.name for value in values if isinstance(value, Measure)}
    assert "accuracy" in names
    assert names - set(registry.MEASURES) == set(), "give the measure a row in analysis/metrics/registry.py"
