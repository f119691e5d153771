"""Outcomes are paired image by image, and `compare` and the gate of releases judge the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, image_set, model, part, store_study
from numpy.typing import NDArray

from bandlens.analysis.comparison.cell_pairs import Run, compare_cells, match_cells, read_cells
from bandlens.analysis.comparison.gates import Limits
from bandlens.analysis.comparison.paired_outcomes import SELF_REFERENCE, read_paired_outcomes
from bandlens.analysis.comparison.release_gate import gate_release
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.predictions import PredictionReader

COUNT = 60
SETTINGS = [condition(), condition("lowpass", cutoff=0.1), condition("pgd_linf", steps=1)]
ALSO_AT_FP32 = "clean at fp32"
IN_A, IN_B = np.arange(10, COUNT), np.arange(COUNT - 1, 9, -1)
"""Places of the common images: B has them in reverse order, and either has ten images that the other lacks."""


def image_sets(*, labelled: bool) -> list[Images]:
    numbers = np.arange(COUNT), np.arange(COUNT + 9, 9, -1)
    return [
        image_set(COUNT, labels=k % 3 if labelled else None, clusters=k // 2, paths=[f"{n}.png" for n in k])
        for k in numbers
    ]


Classes = dict[str, NDArray[np.int64]]


def store_releases(store: Store, *, labelled: bool) -> tuple[Run, Run, list[Images], list[Classes]]:
    """Two releases at bf16, whose attack ran at fp32; a study at fp32 has other clean predictions of each."""
    random, sets, classes_of_runs = np.random.default_rng(4), image_sets(labelled=labelled), []
    for name, images in zip(("v1", "v2"), sets, strict=True):
        classes = {key: random.integers(0, 3, COUNT) for key in (*(s.probe for s in SETTINGS), ALSO_AT_FP32)}
        runs = [(name, SETTINGS[0], "bf16", "clean"), (name, SETTINGS[1], "bf16", "lowpass")]
        runs += [(name, SETTINGS[2], "fp32", "pgd_linf"), (f"{name} at fp32", SETTINGS[0], "fp32", ALSO_AT_FP32)]
        parts: dict[str, list[Any]] = {}
        for study, setting, precision, key in runs:
            rank = None if images.labels is None else (classes[key] != images.labels).astype(int)
            work = cell(images, setting, by=model(content=name), precision=precision)
            parts.setdefault(study, []).append(part(work, classes[key], rank))
        for study, parts_of_study in parts.items():
            store_study(store, study, images, parts_of_study)
        classes_of_runs.append(classes)
    return Run(store, "v1@1"), Run(store, "v2@1"), sets, classes_of_runs


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_are_paired_by_path_and_judged_by_label_or_clean_prediction(store: Store, labelled: bool) -> None:
    """An attack at fp32 is judged by the clean predictions at fp32, and clean images of B by those of A."""
    a, b, (images_a, images_b), (classes_a, classes_b) = store_releases(store, labelled=labelled)
    reader = PredictionReader(store)
    outcomes = read_paired_outcomes(reader, reader, match_cells(a, b, read_cells(a), read_cells(b)))
    assert (outcomes.images_a.tolist(), outcomes.images_b.tolist()) == (IN_A.tolist(), IN_B.tolist())
    assert outcomes.clusters.tolist() == (IN_A // 2).tolist()
    for row, setting in enumerate(SETTINGS):
        predicted_a, predicted_b = classes_a[setting.probe][IN_A], classes_b[setting.probe][IN_B]
        assert np.array_equal(outcomes.predicted_a[row], predicted_a)
        assert np.array_equal(outcomes.predicted_b[row], predicted_b)
        assert np.array_equal(outcomes.changed[row], predicted_a != predicted_b)
        clean = {"clean": "clean", "lowpass": "clean", "pgd_linf": ALSO_AT_FP32}[setting.probe]
        reference_a, reference_b = classes_a[clean][IN_A], classes_b[clean][IN_B]
        if images_a.labels is not None and images_b.labels is not None:
            reference_a, reference_b = images_a.labels[IN_A], images_b.labels[IN_B]
        elif setting.probe == "clean":
            reference_b = predicted_a
        assert np.array_equal(outcomes.correct_a[row], predicted_a == reference_a)
        assert np.array_equal(outcomes.correct_b[row], predicted_b == reference_b)
    assert outcomes.reason.to_list() == [None if labelled else SELF_REFERENCE, None, None]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_gate_of_releases_judges_what_compare_shows(store: Store, labelled: bool) -> None:
    a, b, *_ = store_releases(store, labelled=labelled)
    compared = compare_cells(a, b).cells.filter(pl.col("difference").is_not_null())
    judged = gate_release(a, b, Limits()).rows.join(compared, on="parameters", how="semi", maintain_order="left")
    assert len(compared) == (3 if labelled else 2)
    assert compared.select("top1_a", "top1_b", "n").rows() == judged.select("before", "now", "n").rows()
