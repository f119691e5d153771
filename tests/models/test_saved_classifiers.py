"""Folders that transformers saved: tiny random classifiers, whose own processors say what their images are."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fuzzing import refusal
from PIL import Image
from small import Answer

import bandlens
from bandlens.export.class_names import class_names_of
from bandlens.export.model_files import load_model, verify_model
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.reference_images import PHOTOGRAPH_FOLDER, photograph_crops
from bandlens.export.weights.transformers_folder import read_preprocessing
from bandlens.probes.images.pack import pack

NAMES = {0: "ant", 1: "bee", 2: "cat"}
PROCESSORS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "both sides": (transformers.ViTImageProcessor, {"size": {"height": 64, "width": 64}}),
    "a share of the shorter side": (
        transformers.ConvNextImageProcessor,
        {"size": {"shortest_edge": 64}, "crop_pct": 0.8},
    ),
    "the shorter side, then a crop": (
        transformers.CLIPImageProcessor,
        {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    ),
    "a share that its code states": (
        transformers.LevitImageProcessor,
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of three classes."""
    folder = tmp_path_factory.mktemp("saved") / "tiny vit (v1.5)"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        id2label=NAMES,
        label2id={name: number for number, name in NAMES.items()},
        initializer_range=0.5,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor, options = PROCESSORS["both sides"]
    processor(**options, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.3]).save_pretrained(folder)
    return folder


def test_a_saved_folder_is_exported_without_network_and_does_what_transformers_does(
    saved: Path, tmp_path: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network")

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "connect", refuse)
        answer = command("export", saved, "--out", tmp_path, "--category", "vits", "--format", "json")
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)
    assert (row["name"], row["classes"]) == (saved.name, 3)
    assert "Loading weights" not in answer.err
    model = load_model(tmp_path, saved.name)
    assert (model.category, model.image_size, class_names_of(model)) == ("vits", 64, list(NAMES.values()))
    assert model.crop is not None
    assert model.crop.options == "--size 64 --resize 64x64 --interpolation bilinear"

    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name in ("chelsea.jpg", "coffee.jpg", "astronaut.jpg"):
        shutil.copy(PHOTOGRAPH_FOLDER / name, photographs)
    images = pack(photographs, tmp_path / "images.set", crop=model.crop)
    logits = onnx_logits(verify_model(model), images.take(np.arange(3)).astype(np.float32) / np.float32(255))
    classifier = transformers.pipeline("image-classification", model=str(saved), device="cpu")
    for path, row_of_logits in zip(images.paths, logits, strict=True):
        expected = {answer["label"]: answer["score"] for answer in classifier(str(photographs / path), top_k=3)}
        shares = np.exp(row_of_logits - row_of_logits.max())
        shares /= shares.sum()
        np.testing.assert_allclose(shares, [expected[name] for name in NAMES.values()], atol=0.02)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_are_what_the_folders_processor_makes(kind: str, tmp_path: Path) -> None:
    processor, options = PROCESSORS[kind]
    processor(**options).save_pretrained(tmp_path / "saved")
    (mean, std), crop = read_preprocessing(tmp_path / "saved")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    shutil.copy(PHOTOGRAPH_FOLDER / "coffee.jpg", photographs)
    images = pack(photographs, tmp_path / "images.set", crop=crop)
    pixels = images.take(np.arange(1))[0] / 255
    with Image.open(photographs / "coffee.jpg") as photograph:
        expected = processor(**options)(photograph.convert("RGB"), return_tensors="np")["pixel_values"][0]
    normalized = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.abs(normalized - expected).mean() < 0.02


def test_what_a_folder_lacks_is_one_line(saved: Path, tmp_path: Path) -> None:
    def export(folder: Path, **keys: Any) -> str:
        return str(refusal(lambda: bandlens.export_model(folder, "tiny", **keys, out=tmp_path / "models")))

    folder = Path(shutil.copytree(saved, tmp_path / "changed"))
    assert "leave out `image_size`" in export(folder, image_size=32)
    assert "is a folder, whose config.json names the architecture" in export(folder, architecture="resnet18")
    (folder / "preprocessor_config.json").rename(tmp_path / "preprocessor_config.json")
    assert "has no preprocessor_config.json, which says how images are made; say it with" in export(folder)
    model = bandlens.export_model(folder, "said", mean=(0, 0, 0), std=(1, 1, 1), out=tmp_path / "models")
    assert (model.image_size, model.crop, model.normalization) == (64, None, "none")

    for changes, message in (
        ({"do_rescale": False}, "takes images that image sets do not have (ViTImageProcessor to 3 x 64 x 64)"),
        ({"size": {"height": 64, "width": 96}}, "(ViTImageProcessor to 3 x 64 x 96); say it with --normalization"),
        ({"resample": 0}, "takes images that image sets do not have"),
        ({"image_processor_type": "Nonsense"}, "transformers cannot load"),
    ):
        settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))
        assert message in export(folder)

    config = json.loads((folder / "config.json").read_text())
    itself = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    # A folder may name code of its own, which is not run.
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    own_code = {
        "model_type": "mine",
        "auto_map": {"AutoModelForImageClassification": "evil.Evil", "AutoConfig": "evil.C"},
    }
    (folder / "config.json").write_text(json.dumps(config | own_code))
    assert "load it yourself, and export the network with bandlens.export_model" in export(folder, **itself)

    transformers.ViTModel(transformers.ViTConfig.from_pretrained(saved)).save_pretrained(tmp_path / "headless")
    assert "lacks 2 tensors of a ViTForImageClassification (classifier.bias, classifier.weight)" in export(
        tmp_path / "headless", **itself
    )
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["said.json", "said.onnx"]


@pytest.mark.parametrize("pool", [None, "token", "mean"])
def test_a_backbone_gets_a_head_on_what_transformers_calls_its_features(
    pool: str | None, saved: Path, tmp_path: Path
) -> None:
    network = transformers.ViTModel(transformers.ViTConfig.from_pretrained(saved)).eval()
    network.save_pretrained(tmp_path / "backbone")
    size = network.config.image_size
    prompts, images = np.random.default_rng(0).normal(size=(3, network.config.hidden_size)), photograph_crops(size)
    model = bandlens.export_model(
        bandlens.Backbone(tmp_path / "backbone", prompts, class_names=["a", "b", "c"], pool=pool),
        "zero", mean=(0, 0, 0), std=(1, 1, 1), image_size=size, out=tmp_path / "models",
    )  # fmt: skip
    with torch.inference_mode():
        output = network(torch.from_numpy(images))
    tokens = output.last_hidden_state
    features = {None: output.pooler_output, "token": tokens[:, 0], "mean": tokens.mean(1)}[pool]
    normalize = torch.nn.functional.normalize
    expected = 100 * normalize(features.double()) @ normalize(torch.tensor(prompts)).T
    np.testing.assert_allclose(onnx_logits(verify_model(model), images), expected.numpy(), atol=0.05)
    assert class_names_of(model) == ["a", "b", "c"]


def test_a_classifier_is_a_backbone_without_its_own_head(saved: Path, tmp_path: Path) -> None:
    """Transformers saves no pooler of a vision transformer that classifies by its first token."""
    prompts, images = np.random.default_rng(0).normal(size=(3, 16)), photograph_crops(64)

    def export(pool: str | None) -> Any:
        backbone = bandlens.Backbone(saved, prompts, pool=pool)
        return bandlens.export_model(backbone, "zero", mean=(0, 0, 0), std=(1, 1, 1), out=tmp_path / "models")

    assert "say how its tokens are pooled: `pool` is token or mean" in str(refusal(lambda: export(None)))
    model = export("token")
    classifier = transformers.ViTForImageClassification.from_pretrained(saved).eval()
    with torch.inference_mode():
        features = classifier.vit(torch.from_numpy(images)).last_hidden_state[:, 0]
    normalize = torch.nn.functional.normalize
    expected = 100 * normalize(features.double()) @ normalize(torch.tensor(prompts)).T
    np.testing.assert_allclose(onnx_logits(verify_model(model), images), expected.numpy(), atol=0.05)
