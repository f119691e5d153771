"""Views show accuracies, intervals, agreement, curves and flips of the cells of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_results import Images, cell, condition, database_of, image_set, model, part, store_study
from scipy.optimize import brentq
from scipy.stats import t

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.families.octaves import MASKS as MEASURED_MASKS
from bandlens.analysis.metrics.families.octaves import interactions
from bandlens.app.report.data import read_data
from bandlens.core.protocol import CUTOFFS
from bandlens.core.records import Condition, Finished
from bandlens.probes.octaves import MASKS, OCTAVE_MASK
from bandlens.probes.spectral import radius

LOW, HIGH = condition("lowpass", cutoff=0.5), condition("highpass", cutoff=0.5)


# Intervals


def test_by_hand_four_photographs_with_three_crops_each(store: Store) -> None:
    """Two photographs are all right and two all wrong: no more is known than from four images."""
    images = image_set(12, labels=[0] * 12, clusters=np.repeat([0, 1, 2, 3], 3))
    store_study(store, "s", images, [part(cell(images), [0] * 12, [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3)])
    [row] = store.frame("SELECT n, top1, low, high FROM accuracy").rows()
    assert row[:2] == (12, 0.5)

    def excess(low: float) -> float:
        # Kish's 12 / (1 + 2) = 4 images, times (4 - 1) / 4 for four clusters, are 3; two more may be unseen.
        variance = low * (1 - low) / 3 + 2 * (1 / 4) ** 2 * (1 - 1 / 3) * low**2
        return float((0.5 - low) ** 2 - t.ppf(0.975, 3) ** 2 * variance)

    low = brentq(excess, 0, 0.5)
    assert row[2:] == pytest.approx((low, 1 - low), abs=1e-6)


@pytest.mark.parametrize(("classes", "space", "top5"), [(5, "all", None), (6, "all", 1.0), (1000, "sixteen", 1.0)])
def test_top5_among_five_classes_or_fewer_has_no_number(
    store: Store, classes: int, space: str, top5: float | None
) -> None:
    images = image_set(3, labels=[0, 1, 1], decision_space=space)
    store_study(store, "s", images, [part(cell(images, by=model(classes=classes)), [0, 1, 0], [0, 0, 1])])
    for view in ("accuracy", "curve"):
        assert store.frame(f"SELECT top1, top5 FROM {view}").rows() == [(2 / 3, top5)]


# Curves and flips


def test_curves_and_flips_are_relative_to_the_clean_predictions_of_their_model(store: Store) -> None:
    images = image_set(6, labels=[0] * 6)
    ranks = {
        ("one", None): [0, 0, 0, 1, 4, 5],
        ("one", LOW): [0, 9, 0, 1, 5, 5],
        ("two", None): [6, 1, 1, 1, 1, 1],
        ("two", LOW): [6, 0, 1, 1, 1, 1],
    }
    parts = [part(cell(images, setting, by=model(name)), rank, rank) for (name, setting), rank in ranks.items()]
    store_study(store, "s", images, parts)
    query = "SELECT checkpoint, probe, top1, top5, clean_top1, ratio FROM curve ORDER BY ALL"
    assert store.frame(query).rows() == [
        ("one", "clean", 3 / 6, 5 / 6, 0.5, 1),
        ("one", "lowpass", 2 / 6, 3 / 6, 0.5, pytest.approx(2 / 3)),
        ("two", "clean", 0, 5 / 6, 0, None),
        ("two", "lowpass", 1 / 6, 5 / 6, 0, None),
    ]
    query = (
        "SELECT checkpoint, probe, image_index, path, clean_predicted, predicted, clean_label_rank, label_rank "
        "FROM flip ORDER BY ALL"
    )
    assert store.frame(query).rows() == [
        ("one", "lowpass", 1, "1.png", 0, 9, 0, 9),
        ("one", "lowpass", 4, "4.png", 4, 5, 4, 5),
        ("two", "lowpass", 1, "1.png", 1, 0, 1, 0),
    ]
    sums = store.frame("SELECT right1, right5 FROM part ORDER BY ALL").rows()
    assert sums == [(0, 5), (1, 5), (2, 3), (3, 5)]


# Which study


def test_views_show_the_newest_version_of_each_study_and_any_other_by_name(store: Store) -> None:
    images = image_set(2, labels=[0, 0])
    clean, low, high = (part(cell(images, c), [0, k], [0, k]) for k, c in enumerate((condition(), LOW, HIGH)))
    assert store_study(store, "a", images, [clean, low]) == "a@1"
    assert store_study(store, "b", images, [clean]) == "b@1"
    assert store_study(store, "a", images, [clean, high]) == "a@2"
    probes = "SELECT version, probe FROM {} ORDER BY ALL"
    newest = [("a@2", "clean"), ("a@2", "highpass")]
    assert store.frame(probes.format("accuracy")).rows() == [*newest, ("b@1", "clean")]
    assert store.frame(probes.format("accuracy_of('a')")).rows() == newest
    assert store.frame(probes.format("accuracy_of('a@1')")).rows() == [("a@1", "clean"), ("a@1", "lowpass")]
    assert store.frame(probes.format("curve_of('a@1') WHERE ratio IS NOT NULL")).rows() == [
        ("a@1", "clean"), ("a@1", "lowpass")
    ]  # fmt: skip
    assert store.frame(probes.format("flip_of('a@1')")).rows() == [("a@1", "lowpass")]
    assert store.frame(probes.format("flip")).rows() == [("a@2", "highpass")]


def test_a_later_study_of_the_same_weights_and_images_renames_nothing(tmp_path: Path) -> None:
    first, again = (image_set(12, name=name, labels=[0] * 12) for name in ("photographs", "pictures"))
    settings = [condition(), *(condition("lowpass", cutoff=cutoff) for cutoff in CUTOFFS[:5])]
    parts = [
        part(cell(first, setting, by=net), [k % 2] * 12, [k % 2] * 12)
        for net in (model("a"), model("b"))
        for k, setting in enumerate(settings)
    ]
    path = database_of(tmp_path, first, parts, "first", measured=True)

    def read_views() -> list[list[tuple[object, ...]]]:
        with open_store(path, read_only=True) as store:
            return [store.frame(f"FROM {view}_of('first') ORDER BY ALL").rows() for view in ("curve", "metric", "flip")]

    views = read_views()
    theirs = model("a", content="b", category="somebodys")
    cells = [cell(again, setting, by=theirs) for setting in settings]
    database_of(tmp_path, again, [part(work, [], []) for work in cells], "second", measured=True)
    assert read_views() == views
    assert all(views)
    with open_store(path, read_only=True) as store:
        query = "SELECT DISTINCT study, checkpoint, category, image_set FROM curve ORDER BY ALL"
        assert store.frame(query).rows() == [
            ("first", "a", "own", "photographs"),
            ("first", "b", "own", "photographs"),
            ("second", "a", "somebodys", "pictures"),
        ]
    results = read_data(path, "first")
    assert results.checkpoints.select("name", "category").rows() == [("a", "own"), ("b", "own")]
    assert results.image_sets["name"].to_list() == ["photographs"]


def test_seeds_are_told_apart(store: Store) -> None:
    images = image_set(2, labels=[0, 0])
    noisy = condition("critical_band", noise_sd=0.1, frequency=2)
    seeded = [replace(cell(images, noisy), seed=seed) for seed in (1, 2)]
    store_study(store, "s", images, [part(cell(images), [0, 0], [0, 0]), part(seeded[0], [0, 1], [0, 1])])
    store_study(store, "s", images, [part(cell(images), [0, 0], [0, 0]), part(seeded[1], [1, 1], [1, 1])])
    query = "SELECT seed, top1 FROM {} WHERE probe = 'critical_band'"
    assert store.frame(query.format("accuracy")).rows() == [(2, 0.0)]
    assert store.frame(query.format("accuracy_of('s@1')")).rows() == [(1, 0.5)]


def test_image_sets_of_a_study_are_told_apart(store: Store) -> None:
    labelled, unlabelled = image_set(2, name="here", labels=[0, 0]), image_set(3, name="there")
    parts = [part(cell(labelled, setting), rank, rank) for setting, rank in ((None, [0, 0]), (LOW, [0, 2]))]
    parts += [part(cell(unlabelled, setting), answers) for setting, answers in ((None, [5, 6, 7]), (LOW, [5, 6, 0]))]
    store_study(store, "s", [labelled, unlabelled], parts)
    curves = store.frame("SELECT image_set, measure, n, ratio FROM curve WHERE probe = 'lowpass' ORDER BY ALL").rows()
    assert curves == [("here", "accuracy", 2, 0.5), ("there", "agreement", 3, pytest.approx(2 / 3))]


def test_cycles_are_where_the_probes_cut_and_where_their_noise_lies(store: Store) -> None:
    size = 240  # a high-pass at 0.9 cuts at 11 cycles there and not at 12: in floating point, 1 - 0.9 is below 0.1
    images = image_set(2, labels=[0, 0], size=size)
    filters = [condition(probe, cutoff=c) for probe in ("lowpass", "highpass") for c in CUTOFFS]
    noise = [condition("critical_band", noise_sd=0.02, frequency=f, draw="shared") for f in range(7)]
    own_setting = condition("mine", cutoff=0.5, frequency=3)
    grey = condition("critical_band", noise_sd=0.0)
    settings = [condition(), *filters, *noise, grey, own_setting]
    store_study(store, "s", images, [part(cell(images, setting), [0, 0], [0, 0]) for setting in settings])
    expected = {(setting.probe, setting.number("cutoff"), None): radius(setting, size) for setting in filters}
    expected |= {("critical_band", None, f): 1.75 * size / 224 * 2.0**f for f in range(7)}
    for view in ("accuracy", "curve", "cell_detail", "label_accuracy"):
        rows = store.frame(f"SELECT probe, cutoff, frequency, cycles FROM {view}").unique().rows()
        cycles_by_key = {tuple(key): cycles for *key, cycles in rows}
        assert {key: cycles for key, cycles in cycles_by_key.items() if cycles is not None} == expected, view
        assert cycles_by_key["mine", 0.5, 3] is None
        assert len(cycles_by_key) == len(settings)


def by_engine(images: Images, engine: str, precision: str, setting: Condition, predicted: list[int]) -> Finished:
    """A cell of the same network on another engine; without labels."""
    original = cell(images, setting)
    return part(replace(original, variant=replace(original.variant, engine=engine, precision=precision)), predicted)


@pytest.mark.parametrize("precisions", [[], ["fp32", "bf16"]])
def test_an_attack_is_compared_with_the_clean_images_of_its_study(store: Store, precisions: list[str]) -> None:
    """Attacks run on torch at fp32, the study on another engine; of several that ran, one at fp32 is the nearest."""
    images, attack = image_set(4), condition("pgd_linf", steps=1)
    for precision in precisions:
        store_study(store, precision, images, [by_engine(images, "other", precision, condition(), [1, 2, 3, 3])])
    parts = [
        by_engine(images, "openvino", "fp16", condition(), [1, 2, 3, 4]),
        by_engine(images, "openvino", "fp16", LOW, [1, 2, 0, 0]),
        by_engine(images, "torch", "fp32", attack, [1, 0, 0, 4]),
    ]
    store_study(store, "s", images, parts)
    top1 = 0.25 if precisions else 0.5
    rows = store.frame("SELECT probe, top1, clean_top1, ratio FROM curve_of('s') ORDER BY probe").rows()
    assert rows == [("clean", 1, 1, 1), ("lowpass", 0.5, 1, 0.5), ("pgd_linf", top1, 1, top1)]
    flips = store.frame("SELECT probe, image_index FROM flip_of('s') ORDER BY ALL").rows()
    attacked = [("pgd_linf", k) for k in ([1, 2, 3] if precisions else [1, 2])]
    assert flips == [("lowpass", 2), ("lowpass", 3), *attacked]


def test_other_cells_are_compared_with_clean_ones_of_their_engine_and_precision_alone(store: Store) -> None:
    images = image_set(2)
    store_study(store, "a", images, [by_engine(images, "openvino", "fp32", condition(), [1, 2])])
    store_study(store, "b", images, [by_engine(images, "openvino", "fp16", LOW, [1, 2])])
    rows = store.frame("SELECT probe, n, top1, low, high FROM accuracy_of('b')").rows()
    assert rows == [("lowpass", 2, None, None, None)]
    assert store.frame("SELECT ratio FROM curve_of('b')").rows() == [(None,)]
    assert store.frame("FROM flip_of('b')").is_empty()


def test_a_cell_is_compared_with_the_clean_one_of_its_onnx_file(store: Store) -> None:
    """A checkpoint that is quantized twice is two networks: each agrees with itself, and neither with the other."""
    images = image_set(2)
    for sha256, predicted in (("a", [0, 0]), ("b", [1, 1])):
        cells = [cell(images, setting, precision="int8") for setting in (condition(), LOW)]
        cells = [replace(cell, variant=replace(cell.variant, sha256=64 * sha256)) for cell in cells]
        store_study(store, sha256, images, [part(cell, predicted) for cell in cells])
    assert store.frame("SELECT study, top1 FROM accuracy WHERE probe = 'lowpass' ORDER BY ALL").rows() == [
        ("a", 1),
        ("b", 1),
    ]


# Octave shares


@pytest.mark.parametrize("labelled", [True, False])
def test_octave_shares_of_an_image_are_shapley_s(shared_store: Store, labelled: bool) -> None:
    """The formula of the measure, image by image; a cell of all seven octaves or a probe of one's own adds nothing."""
    rng = np.random.default_rng(3)
    masks = [str(mask["keep"]) for mask in OCTAVE_MASK.conditions({"keep": [*MASKS, "0123456"]})]
    conditions = [condition(), *(condition("octaves", keep=mask) for mask in masks), condition("centre", keep=3)]
    images = image_set(4, labels=[0, 0, 0, 0] if labelled else None)
    predicted = rng.integers(0, 2, (len(conditions), 4))
    probability = rng.random((len(conditions), 4)).astype(np.float32)
    probability[:40, 3] = 0  # which counts as the least number that is stored
    name = f"octaves, {'labelled' if labelled else 'unlabelled'}"
    parts = [
        part(
            cell(images, setting, by=model(name)),
            answers,
            answers if labelled else None,
            label_probability=probabilities if labelled else None,
        )
        for setting, answers, probabilities in zip(conditions, predicted, probability, strict=True)
    ]
    store_study(shared_store, name, images, parts)
    hits = predicted == (0 if labelled else predicted[0])
    logarithms = np.log(np.maximum(probability.astype(np.float64), 2.0**-149))
    place_of = {"0123456": 0} | {mask.replace("none", ""): place for place, mask in enumerate(masks[:-1], start=1)}
    places = [place_of[mask] for mask in MEASURED_MASKS]
    rows = shared_store.frame(
        "SELECT image_index, octave, share, log_share FROM octave_share_of(?) ORDER BY octave, image_index", [name]
    )
    assert len(rows) == 28
    assert rows["share"].to_numpy().reshape(7, 4) == pytest.approx(interactions(hits[places], 1), abs=1e-12)
    if labelled:
        log_shares = rows["log_share"].to_numpy().reshape(7, 4)
        assert log_shares == pytest.approx(interactions(logarithms[places], 1), abs=1e-10)
    else:
        assert rows["log_share"].is_null().all()
