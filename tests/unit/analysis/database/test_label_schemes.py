"""Views over stored predictions say which are right: by ReaL's lists, by shape and texture, and by class names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up_results import cell, condition, image_set, model, part, store_study

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.predictions import PredictionReader, subjects

LOW = condition("lowpass", cutoff=0.5)


def test_the_best_of_several_classes_of_an_image_is_right_in_every_view(store: Store) -> None:
    images = image_set(4, labels=[0] * 4, schemes={"several": [[0, 1], [0], [0, 1], [0, 1]]})
    store_study(store, "s", images, [part(cell(images), [1, 0, 2, 1], [0, 0, 1, 0])])
    query = "SELECT scheme, mean(correct::INTEGER) FROM cell_label_outcome GROUP BY scheme ORDER BY scheme"
    accuracies = [("several", 3 / 4), ("single", 3 / 4)]
    assert store.frame(query).rows() == accuracies
    assert store.frame("SELECT scheme, top1 FROM label_accuracy ORDER BY scheme").rows() == accuracies
    # A blind guess among 10 classes is right with probabilities 2 / 10, 1 / 10, 2 / 10 and 2 / 10.
    assert store.frame("SELECT chance FROM accuracy").item() == pytest.approx(0.175)
    [subject] = subjects(store, "s")
    assert subject.floor == pytest.approx(0.175)
    truth = PredictionReader(store).images(subject.image_set_id)
    assert truth.has_same_labels(truth)
    assert not truth.has_same_labels(replace(truth, several=truth.several[1:]))


def test_names_of_classes_are_the_last_ones_of_the_decision_spaces_in_use(store: Store) -> None:
    all_set, few_set = image_set(2, labels=[0, 1]), image_set(2, labels=[0, 1], decision_space="sixteen", name="few")
    names = {"all": {0: "tench", 1: "goldfish"}, "sixteen": {0: "airplane", 1: "bear"}, "unused": {0: "nothing"}}
    parts = [part(cell(images), [1, 0], [1, 1]) for images in (all_set, few_set)]
    store_study(store, "s", [all_set, few_set], parts, names)
    renamed = [part(cell(all_set, by=model("other")), [1, 0], [1, 1])]
    store_study(store, "s", [all_set], renamed, {"all": {0: "Tinca tinca"}})
    assert store.frame("SELECT decision_space, class, name FROM class_name ORDER BY ALL").rows() == [
        *(("all", 0, "Tinca tinca"), ("all", 1, "goldfish")),
        *(("sixteen", 0, "airplane"), ("sixteen", 1, "bear")),
    ]


def test_flips_say_what_classes_are_called(store: Store) -> None:
    own_set = replace(image_set(2, labels=[0, 1], name="own"), class_names=["abbey", "arch"])
    other_set = image_set(2, labels=[1, 0], name="other")
    small_model, large_model = model("small", classes=2), model("large", classes=1000)
    parts = [
        part(cell(images, setting, by=network), [0, 0] if setting is None else [1, 0], [0, 0])
        for images, network in ((own_set, small_model), (other_set, small_model), (other_set, large_model))
        for setting in (None, LOW)
    ]
    store_study(store, "s", [own_set, other_set], parts, {"all": {0: "tench", 1: "goldfish"}})
    query = "SELECT image_set, checkpoint, path, clean_class, class, clean_predicted, predicted FROM flip ORDER BY ALL"
    assert store.frame(query).rows() == [
        ("other", "large", "0.png", "tench", "goldfish", 0, 1),
        ("other", "small", "0.png", None, None, 0, 1),
        ("own", "small", "0.png", "abbey", "arch", 0, 1),
    ]
