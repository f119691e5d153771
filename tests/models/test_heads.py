"""Heads on networks of features, from the command line to a study, and transformers on every engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_workers import work_here
from small import Answer, ask, make_images, make_model, make_pictures, make_study, refusal
from torch import nn

import bandlens
from bandlens.app.api.export import Lowering, lower
from bandlens.core.errors import ExportError
from bandlens.core.records import Crop, Head
from bandlens.export.model_files import load_model
from bandlens.probes.images.image_set import open_image_set
from bandlens.probes.images.pack import pack_arrays

timm = pytest.importorskip("timm")

Command = Callable[..., Answer]
COUNT = 120
PLAIN = {"mean": 0.0, "std": 1.0}


class Tower(nn.Module):
    """A vision transformer of two blocks on images of 64 pixels: 17 tokens of 24 numbers, or 16 of the first."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 4, "num_classes": 16}
        self.transformer = timm.models.VisionTransformer(**sizes)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)
        self.pooled = pooled
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = (self.transformer if self.pooled else self.transformer.forward_features)(images)
        return features


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.set and test.set: warm and cold pictures, 40 of which are in both."""
    folder = tmp_path_factory.mktemp("heads")
    pictures, labels = make_pictures(COUNT + 40, 64).astype(int), [k % 2 for k in range(COUNT + 40)]
    pictures[np.array(labels) == 1] += np.array([60, 0, -60])
    pixels = pictures.clip(0, 255).astype(np.uint8)
    make_images(folder / "train.set", pixels[:COUNT], labels=labels[:COUNT], folders=4)
    make_images(folder / "test.set", pixels[COUNT - 40 :], labels=labels[COUNT - 40 :])
    make_images(folder / "bare.set", pixels[:4])
    make_model(folder, "small", size=64, classes=9)
    return folder


def test_a_file_of_features_becomes_a_classifier_that_a_study_runs(
    folder: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "head.toml").write_text('head = "train.set"\noutput = "p"\npool = "mean"\n')
    export = (
        *("export", folder / "small.onnx", "--head", folder / "head.toml"),
        *("--normalization", "none", "--name", "mine", "--out", tmp_path / "models"),
    )
    answer = command(*export, "--format", "json")
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)
    assert (row["classes"], row["top1_disagreements"]) == (2, 0)
    model = load_model(tmp_path / "models", "mine")
    images = open_image_set(folder / "train.set")
    assert model.head is not None
    assert model.head.accuracy is not None
    assert model.head.accuracy > 0.8
    assert model.head.images == COUNT
    assert (
        f"a ridge head on 120 images of train.set is right on {model.head.accuracy:.1%} of held-out images"
        in answer.err
    )
    assert images.info.digest == model.head.digest
    again = command(*export, "--format", "json")
    assert json.loads(again.out)[0]["sha256"] == row["sha256"]

    study = make_study(tmp_path, models="models", images=[str(folder / "test.set")], probes="lowpass = {cutoff = 0.5}")
    run = ("run", study, "--db", tmp_path / "results.duckdb")
    answer = command(*run)
    assert answer.code == 2
    assert "the head of mine was trained on 40 of the 80 images of test.set" in answer.err
    study.write_text('overlap = "leave out"\n' + study.read_text())
    answer = command(*run)
    assert answer.code == 0, answer.err
    assert "40 images are left out" in answer.err
    (columns,) = ask(tmp_path / "results.duckdb", "SELECT head, classes FROM checkpoint")
    assert (Head(**json.loads(columns[0])), columns[1]) == (model.head, 2)
    (top1,) = ask(tmp_path / "results.duckdb", "SELECT n, top1 FROM accuracy WHERE probe = 'clean'")
    assert top1[0] == 40
    assert top1[1] > 0.75
    # Another range gives other pixels, by which images are recognized.
    assert "was packed otherwise" not in answer.err
    unlike = Crop(64, 64, fixed=True, range=(0.0, 300.0))
    pixels = open_image_set(folder / "test.set").pixels.astype(np.uint16).transpose(0, 2, 3, 1)
    pack_arrays([(f"{k}.png", picture) for k, picture in enumerate(pixels)], tmp_path / "range.set", crop=unlike)
    ranged = make_study(
        tmp_path, name="ranged", models="models", images=["range.set"], probes="lowpass = {cutoff = 0.5}"
    )
    answer = command("plan", ranged, "--db", tmp_path / "results.duckdb")
    assert answer.code == 0, answer.err
    assert (
        "range.set was packed otherwise than the training images of mine, so that images of both are not" in answer.err
    )
    # Workers open the set anew.
    work_here(monkeypatch)
    spread = command("run", study, "--db", tmp_path / "workers.duckdb", "--devices", "cpu")
    assert spread.code == 0, spread.err


def test_tokens_of_a_network_in_memory_are_pooled_and_get_a_head(folder: Path, tmp_path: Path) -> None:
    network = Tower(pooled=False)
    backbone = bandlens.Backbone(network, folder / "train.set", method="logistic", pool="token")
    model = bandlens.export_model(backbone, "tower", image_size=64, out=tmp_path, **PLAIN)
    assert model.head is not None
    assert (model.head.method, model.head.source, model.classes) == ("logistic", "train.set", 2)
    assert 0.5 < (model.head.accuracy or 0) <= 1
    assert not list(tmp_path.glob(".*"))


def test_cosines_with_prompts_stay_right_in_half_precision(tmp_path: Path) -> None:
    backbone = bandlens.Backbone(Tower(), np.random.default_rng(1).normal(size=(7, 16)))
    model = bandlens.export_model(backbone, "clip", image_size=64, out=tmp_path, **PLAIN)
    (row,) = lower(model, Lowering(["fp16"]))
    assert row["relative_difference"] < 0.02


def test_tokens_and_networks_that_say_that_they_have_no_classes_are_refused(tmp_path: Path) -> None:
    bare = Tower()
    bare.num_classes = 0  # type: ignore[assignment]
    for network in (Tower(pooled=False), bare):
        out = tmp_path / "models"
        message = refusal(bandlens.export_model, network, "tower", kind=ExportError, image_size=64, out=out, **PLAIN)
        assert "bandlens.Backbone(network, SET)" in message
    assert not list((tmp_path / "models").glob("*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "bare.set"}, "image set bare.set has no labels, and a head is trained on one each"),
        ({"head": "train.set", "output": "x"}, "`output` names a tensor of a finished ONNX file"),
    ],
)
def test_heads_that_do_not_fit_are_refused_and_nothing_is_written(
    options: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    backbone = bandlens.Backbone(Tower(), **options | {"head": folder / options["head"]})
    out = tmp_path / "models"
    assert message in refusal(bandlens.export_model, backbone, "tower", image_size=64, out=out, **PLAIN)
    assert not out.exists()


def test_a_head_is_for_features(command: Command, folder: Path) -> None:
    for words in (
        ("export", "tv_resnet50", "--head", folder / "train.set"),
        ("export", "timm:test_vit", "--head", "multilabel"),
    ):
        answer = command(*words)
        assert answer.code == 2
        assert "has classes" in answer.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('pool = "mean"', "head.toml: head is missing"),
        ('heads = "train.set"', "unknown key in"),
    ],
)
def test_a_file_of_a_head_is_checked(text: str, message: str, command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "head.toml").write_text(text)
    answer = command("export", folder / "small.onnx", "--normalization", "none", "--head", tmp_path / "head.toml")
    assert (answer.code, message in answer.err) == (2, True), answer.err
