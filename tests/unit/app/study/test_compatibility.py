"""Labels are those of the model's classes by name; the digest is that of a set which was packed with these labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import CLASSES as TWELVE
from small import ask, make_images, make_model, make_pictures, make_study, pack_folders

from bandlens.analysis.database.open import open_store
from bandlens.app.study.compatibility import check_attackable, check_labels
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.set_lookup import as_recorded
from bandlens.core.errors import UsageError
from bandlens.core.protocol import CLASSES
from bandlens.core.records import Crop
from bandlens.export.class_names import name_classes
from bandlens.probes.images.decision_spaces import decision_space, imagenet_classes
from bandlens.probes.images.image_set import Scheme, open_image_set
from bandlens.probes.images.pack import pack

NAMES = ["zebra", "ant", "whale", "bee", "crow", "deer", "elk"]
CROP = Crop(128, 128)


def make_work(folder: Path, **keys: object) -> Work:
    return resolve(Study.read(make_study(folder, **keys)))


def test_three_of_seven_classes_get_the_numbers_that_the_model_has_for_them(tmp_path: Path) -> None:
    packed = pack_folders(tmp_path, ["whale", "bee", "zebra"])
    assert packed.labels is not None
    model = make_model(tmp_path / "models", classes=len(NAMES))
    (unmatched,) = make_work(tmp_path).image_sets
    assert (unmatched.info.digest, unmatched.class_names) == (packed.info.digest, ["bee", "whale", "zebra"])
    name_classes(model, NAMES)
    (images,) = make_work(tmp_path).image_sets
    assert images.labels is not None
    assert [NAMES[label] for label in images.labels] == [path.split("/")[0] for path in images.paths]
    assert images.class_names == NAMES
    assert open_image_set(packed.folder).info == packed.info, "the set stays as it is"

    class_file = tmp_path / "classes.csv"
    rows = [f"{path},{label}\n" for path, label in zip(images.paths, images.labels, strict=True)]
    class_file.write_text("path,class\n" + "".join(rows))
    numbered = pack(tmp_path / "photographs", tmp_path / "numbered.set", crop=CROP, labels=class_file)
    assert images.info.digest == numbered.info.digest != packed.info.digest


def test_a_run_ranks_the_labels_that_were_matched(tmp_path: Path) -> None:
    packed = pack_folders(tmp_path, ["bee", "elk", "crow"])
    name_classes(make_model(tmp_path / "models", classes=len(NAMES), seed=7), NAMES)
    run_study(make_work(tmp_path, limit=10), tmp_path / "results.duckdb")
    query = "SELECT image_index, path, predicted, label_rank FROM prediction JOIN image USING (image_index) ORDER BY 1"
    rows = ask(tmp_path / "results.duckdb", query)
    assert len(rows) == 10
    assert all((NAMES[predicted] == path.split("/")[0]) == (rank == 0) for _, path, predicted, rank in rows)
    assert sum(rank == 0 for *_, rank in rows) >= 4, "the order of the folders would have made all of them wrong"
    names = ask(tmp_path / "results.duckdb", "SELECT name FROM shown_class ORDER BY class")
    assert [name for (name,) in names] == NAMES
    with open_store(tmp_path / "results.duckdb", read_only=True) as store:
        digest = store.frame("SELECT digest FROM image_set").item()
        recorded = as_recorded(store, packed, digest)
    assert recorded is not None, "the explorer shows its pictures"
    assert recorded.paths == [path for _, path, *_ in rows]


@pytest.mark.parametrize(("kind", "name"), [("WordNet ids", "mine"), ("names", "tv_resnet50")])
def test_folders_of_some_of_imagenets_classes_have_their_numbers_among_the_1000(
    kind: str, name: str, tmp_path: Path
) -> None:
    numbers = [7, 1, 999]
    names = list(imagenet_classes()) if kind == "WordNet ids" else decision_space("all").names
    pack_folders(tmp_path, [names[number] for number in numbers])
    make_model(tmp_path / "models", name, classes=CLASSES)
    (images,) = make_work(tmp_path).image_sets
    assert images.labels is not None
    assert [names[label] for label in images.labels] == [path.split("/")[0] for path in images.paths]
    assert images.class_names is None
    if kind == "WordNet ids":
        by_ids = pack(tmp_path / "photographs", tmp_path / "ids.set", crop=CROP)
        assert images.info.digest == by_ids.info.digest


def test_folders_that_the_model_has_no_class_for_are_named(tmp_path: Path) -> None:
    pack_folders(tmp_path, ["bee", "hornet", "wasp"], per_class=1)
    model = make_model(tmp_path / "models", classes=len(NAMES))
    make_work(tmp_path)
    name_classes(model, NAMES)
    with pytest.raises(UsageError, match=r"images\.set: hornet, wasp are none of the 7 classes of one, such as zebra"):
        make_work(tmp_path)
    # Other classes than ImageNet's may be what the user calls adversarial training.
    make_model(tmp_path / "models", classes=CLASSES, category="adversarial_training")
    make_work(tmp_path)
    make_model(tmp_path / "models", "tv_resnet50", classes=CLASSES)
    with pytest.raises(UsageError, match="are none of the 1000 classes of tv_resnet50, such as tench"):
        make_work(tmp_path, checkpoints=["tv_resnet50"])


def test_models_that_number_a_class_differently_are_named(tmp_path: Path) -> None:
    pack_folders(tmp_path, ["ant", "bee"], per_class=1)
    models = [make_model(tmp_path / "models", name, classes=7, seed=seed) for seed, name in enumerate(("one", "two"))]
    for model in models:
        name_classes(model, NAMES)
    assert len({cell.image_set.digest for cell in make_work(tmp_path).cells}) == 1
    name_classes(models[1], sorted(NAMES))
    with pytest.raises(UsageError, match="'ant' is class 1 of one and 0 of two"):
        make_work(tmp_path)
    assert len(make_work(tmp_path, checkpoints=["two"]).image_sets) == 1


def test_labels_and_classes_that_real_lists_are_classes_of_every_model(tmp_path: Path) -> None:
    models = [make_model(tmp_path, "large", classes=20), make_model(tmp_path, "small")]
    check_labels(make_images(tmp_path / "a.set", make_pictures(3), labels=[0, TWELVE - 1, 1]), models)
    with pytest.raises(UsageError, match=r"0/1\.png is labelled 12, but small has 12 classes"):
        check_labels(make_images(tmp_path / "b.set", make_pictures(3), labels=[0, TWELVE, 1]), models)
    accepted = Scheme(np.array([0, 2, 2]), np.array([1, 1, TWELVE], np.int32))
    images = replace(make_images(tmp_path / "images.set", make_pictures(3)), schemes={"real": accepted})
    check_labels(images, models[:1])
    with pytest.raises(UsageError, match=r"0/2\.png is labelled 12, but small has 12 classes; give labels from 0"):
        check_labels(images, models)


def test_images_of_another_decision_are_refused(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images.set", make_pictures(3))
    check_attackable(images.info)
    with pytest.raises(UsageError, match=r"images.set decides among sixteen, and attacks need"):
        check_attackable(replace(images.info, decision_space="sixteen"))
