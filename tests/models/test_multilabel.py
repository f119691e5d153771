"""Networks of several labels, from the command line to the measures of a study, by torch's own logits."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import write_onnx
from numpy.typing import NDArray
from PIL import Image
from small import Answer, ask, make_images, make_model, make_pictures, make_study
from torch import nn

import bandlens
from bandlens.app.api.export import Lowering, lower
from bandlens.core.errors import UsageError
from bandlens.export.class_names import class_names_of
from bandlens.export.model_files import LABEL_SETS, describe_model, load_model, verify_model
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.reference_images import photograph_crops
from bandlens.probes.images.image_set import open_image_set

Command = Callable[..., Answer]
LABELS = ["bright", "calm", "dull"]
COUNT = 40
PLAIN = {"mean": 0.0, "std": 1.0}


class Labelled(nn.Module):
    """Three labels of images of 64 pixels, as logits or as what a sigmoid makes of them."""

    def __init__(self, sigmoid: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.last = nn.Conv2d(3, 6, 5, 3), nn.Linear(6, 3)
        nn.init.normal_(self.last.weight, std=3)
        with torch.no_grad():  # grey images have about as many labels as they lack
            self.last.bias -= self.last(self.first(torch.zeros(1, 3, 64, 64)).relu().mean((2, 3)))[0]
        self.sigmoid = sigmoid
        self.eval()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.first(images - 0.5).relu().mean((2, 3)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.logits(images)
        return logits.sigmoid() if self.sigmoid else logits


def logits_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = Labelled().logits(torch.from_numpy(pixels.astype(np.float32) / 255)).numpy()
    return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and labels.csv with the labels of torch's network, of which every fifth image has others."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "pictures").mkdir()
    pictures = make_pictures(COUNT, 64)
    truth = logits_of(pictures.transpose(0, 3, 1, 2)) > 0
    truth[::5, 1] ^= True
    assert len(np.unique(truth, axis=0)) > 3
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "class"])
        for number, (picture, labels) in enumerate(zip(pictures, truth, strict=True)):
            Image.fromarray(picture).save(folder / "pictures" / f"{number:02}.png")
            names = [name for name, has in zip(LABELS, labels, strict=True) if has]
            rows.writerows([f"{number:02}.png", name] for name in names or [""])
    (folder / "names.txt").write_text("\n".join(LABELS))
    return folder


@pytest.mark.parametrize(("way", "sigmoid"), [("file", True), ("memory", False)])
def test_a_network_of_labels_decides_each_by_its_own_logit(way: str, sigmoid: bool, tmp_path: Path) -> None:
    network = Labelled(sigmoid)
    source = network if way == "memory" else write_onnx(network, tmp_path / "labels.onnx")
    model = bandlens.export_model(
        bandlens.MultiLabel(source),
        "mine",
        image_size=64 if way == "memory" else None,
        out=tmp_path / "models",
        **PLAIN,
    )
    stored_model = load_model(tmp_path / "models", "mine")
    assert (stored_model, model.classes, model.multilabel) == (model, 8, True)
    assert describe_model(tmp_path / "models", "mine")["adapted"] == [LABEL_SETS.format(3)]
    images = photograph_crops(64)
    with torch.inference_mode():
        expected = network.logits(torch.from_numpy(images)).numpy()
    logits = onnx_logits(verify_model(model), images)
    np.testing.assert_array_equal(logits.argmax(1)[:, None] >> np.arange(3) & 1, expected > 0)
    # The set without a label differs from that of it alone by its logit.
    np.testing.assert_allclose(logits[:, [1, 2, 4]] - logits[:, :1], expected, rtol=1e-3, atol=1e-4)


def test_a_study_judges_label_by_label(folder: Path, tmp_path: Path, command: Command) -> None:
    write_onnx(Labelled(sigmoid=True), tmp_path / "mine.onnx")
    export = ("export", tmp_path / "mine.onnx", "--normalization", "none", "--out", tmp_path / "models")
    answer = command(*export, "--head", "multilabel", "--classes", folder / "names.txt")
    assert answer.code == 0, answer.err
    assert "mine: gives 3 labels: exported as a classifier of their sets" in answer.err
    assert class_names_of(load_model(tmp_path / "models", "mine")) == [
        *("no label", "bright", "calm", "bright + calm", "dull", "bright + dull", "calm + dull"),
        "bright + calm + dull",
    ]
    pack = ("images", "pack", folder / "pictures", "--out", tmp_path / "images.set", "--size", 64, "--resize", 64)
    answer = command(*pack, "--labels", folder / "labels.csv", "--decision-space", "multilabel")
    assert answer.code == 0, answer.err
    pgd = "pgd_linf = {eps = 0.1, step = 0.03, steps = 5}"
    study = make_study(tmp_path, models="models", probes=f"lowpass = {{cutoff = 0.3}}\n{pgd}")
    for words in (("run", study), ("analyze",)):
        answer = command(*words, "--db", tmp_path / "results.duckdb")
        assert answer.code == 0, answer.err

    images = open_image_set(tmp_path / "images.set")
    decided = logits_of(images.pixels) > 0
    with (folder / "labels.csv").open(newline="") as file:
        rows = {(row["path"], row["class"]) for row in csv.DictReader(file)}
    truth = np.array([[(path, name) in rows for name in LABELS] for path in images.paths])
    values = dict(ask(tmp_path / "results.duckdb", "SELECT metric, value FROM condition_metric WHERE probe = 'clean'"))
    assert values["accuracy"] == pytest.approx((decided == truth).all(axis=1).mean()) == 0.8
    assert values["label_accuracy"] == pytest.approx((decided == truth).mean())
    for name, accuracy in zip(LABELS, (decided == truth).mean(axis=0), strict=True):
        assert values[f"label_accuracy_{name}"] == pytest.approx(accuracy)
    attacked = ask(
        tmp_path / "results.duckdb",
        "SELECT value FROM condition_metric WHERE probe = 'pgd_linf' AND metric = 'label_accuracy'",
    )
    assert attacked[0][0] < values["label_accuracy"] - 0.1
    (chance,) = ask(tmp_path / "results.duckdb", "SELECT DISTINCT chance FROM accuracy")
    assert chance == (1 / 8,)


def test_int8_leaves_the_layer_of_label_sets_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    pictures = make_pictures(20, 64)
    make_images(tmp_path / "calibration.set", pictures)
    model = bandlens.export_model(bandlens.MultiLabel(Labelled()), "mine", image_size=64, out=tmp_path, **PLAIN)
    (row,) = lower(model, Lowering(["int8"], tmp_path / "calibration.set"))
    logits = onnx_logits(Path(row["file"]).read_bytes(), pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    # Labels of small logits alone may flip; the answer is exactly 0 as in fp32, and no set of equal rank exists.
    assert np.all(np.sort(logits, axis=1)[:, -1] == 0)
    assert np.all(np.sort(logits, axis=1)[:, -2] < 0)


def test_what_has_one_label_and_what_has_several_are_told_apart(folder: Path, tmp_path: Path, command: Command) -> None:
    model = bandlens.export_model(
        bandlens.MultiLabel(Labelled()), "mine", image_size=64, out=tmp_path / "models", **PLAIN
    )
    make_model(tmp_path / "plain", "plain", size=64, classes=8)
    make_images(tmp_path / "single.set", make_pictures(6, 64), labels=[0, 1, 2, 0, 1, 2])
    pack = ("images", "pack", folder / "pictures", "--size", 64, "--resize", 64, "--decision-space", "multilabel")
    several = (*pack, "--labels", folder / "labels.csv", "--out")
    assert command(*several, tmp_path / "named.set").code == 0
    numbers = (folder / "labels.csv").read_text().replace("bright", "0").replace("calm", "1").replace("dull", "2")
    (tmp_path / "numbers.csv").write_text(numbers)
    assert command(*pack, "--labels", tmp_path / "numbers.csv", "--out", tmp_path / "several.set").code == 0
    for models, images, message in (
        ("models", "single.set", "image set single.set has one label an image, and mine decides several; pack it with"),
        ("plain", "several.set", "image set several.set has several labels an image, and plain decides one"),
        ("models", "named.set", "image set named.set names its labels, and mine does not; export it with --classes"),
    ):
        study = make_study(tmp_path, models=models, images=[images], probes="lowpass = {cutoff = 0.5}")
        answer = command("run", study, "--db", tmp_path / "results.duckdb")
        assert answer.code == 2
        assert message in answer.err
    assert command(*pack, "--out", tmp_path / "bare.set").code == 2
    with pytest.raises(UsageError, match="has several labels an image, and a head is trained on one each"):
        bandlens.export_model(bandlens.Backbone(Labelled(), tmp_path / "several.set"), "h", image_size=64, **PLAIN)
    with pytest.raises(UsageError, match="2 names were given for the 3 labels of mine"):
        bandlens.name_classes(model, ["a", "b"])
    with pytest.raises(UsageError, match="a published checkpoint has classes of its own"):
        bandlens.export_model(bandlens.MultiLabel("timm:resnet18.tv_in1k"))
    # Numbered as the outputs are, labels need no names.
    study = make_study(tmp_path, models="models", images=["several.set"], probes="lowpass = {cutoff = 0.5}")
    assert command("run", study, "--db", tmp_path / "results.duckdb").code == 0
    (top1,) = ask(tmp_path / "results.duckdb", "SELECT top1 FROM accuracy WHERE probe = 'clean'")
    assert top1 == (0.8,)
