"""timm's pretrained models against timm: its transforms, and its own loading of the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small import make_pictures
from torchvision.transforms import CenterCrop, Compose, Resize

from bandlens.app.api.coerce import take_images, take_model
from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.export.heads.linear import fit_head
from bandlens.export.model_files import load_model, verify_model
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.reference_images import photograph_crops
from bandlens.export.weights.architectures import pool_pretrained, pretrained
from bandlens.probes.images.decode import planar
from bandlens.probes.images.pack import pack_arrays

timm = pytest.importorskip("timm")
NAME = "test_vit.r160_in1k"


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        "tf_efficientnetv2_b0.in1k",
        "convnextv2_nano.fcmae_ft_in22k_in1k_384",
        "eva02_small_patch14_336.mim_in22k_ft_in1k",
    ],
)
def test_pixels_and_normalization_are_those_of_the_models_transform(name: str, rng: np.random.Generator) -> None:
    description = pretrained(name)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    geometry = Compose([step for step in transform.transforms if isinstance(step, (Resize, CenterCrop))])
    for shape in ((500, 375), (91, 260), (480, 640)):
        photo = Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).resize(shape)
        expected = np.asarray(geometry(photo)).transpose(2, 0, 1)
        assert np.array_equal(planar(photo, description.crop), expected)
    assert description.normalization == (tuple(config["mean"]), tuple(config["std"]))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "subset"), [("mobilenetv3_large_100.miil_in21k", "imagenet-21k-miil"), ("resnet18.tv_in1k", None)]
)
def test_classes_of_a_larger_imagenet_are_called_as_timm_calls_them(name: str, subset: str | None) -> None:
    expected = None if subset is None else timm.data.ImageNetInfo(subset).label_names()
    assert pretrained(name).class_names == expected


def test_a_name_without_a_tag_has_timms_choice() -> None:
    assert pretrained("resnet18").name == "resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnt50", UnknownName, "did you mean resnet50"),
        (
            "vit_small_patch14_dinov2.lvd142m",
            ExportError,
            "is a backbone without classes; give it a head of classes: --head",
        ),
        ("resnet50.d_in1k", UsageError, "is one of the 48 checkpoints, whose images are the study's; `bandlens"),
        ("resnet50", UsageError, "resnet50.a1_in1k is one of the 48 checkpoints"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_fetched(name: str, error: Any, message: str) -> None:
    with pytest.raises(error) as refusal:
        pretrained(name)
    assert message in str(refusal.value)


def bandlens(tmp_path: Path, hub: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub"), "BANDLENS_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    command = [sys.executable, "-m", "bandlens", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(4)
    vit: torch.nn.Module = timm.create_model(NAME, pretrained=False)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return vit.eval()


def test_a_model_comes_from_the_hub(server: Any, published: Any, tmp_path: Path, network: torch.nn.Module) -> None:
    from safetensors.torch import save

    server.files["/timm/test_vit.r160_in1k/resolve/main/model.safetensors"] = published(save(network.state_dict()))
    ran = bandlens(tmp_path, server.address, "export", "timm:timm/test_vit", "--out", "models")
    assert ran.returncode == 0, ran.stderr
    model = load_model(tmp_path / "models", NAME)
    assert (model.category, model.image_size, model.crop) == ("timm", 160, pretrained(NAME).crop)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in pretrained(NAME).normalization)
    images: NDArray[np.float32] = photograph_crops(160)
    with torch.inference_mode():
        expected = network((torch.from_numpy(images) - mean) / std).numpy()
    np.testing.assert_allclose(onnx_logits(verify_model(model), images), expected, atol=1e-3 * np.abs(expected).max())
    again = bandlens(tmp_path, "http://127.0.0.1:9", "export", f"timm:{NAME}", "--out", "models")
    assert again.returncode == 0, again.stderr  # nothing is fetched twice
    in_memory = take_model(network, tmp_path)
    facts = in_memory.name, in_memory.normalization, in_memory.crop
    assert facts == ("test_vit", model.normalization, model.crop)
    images = take_images(make_pictures(2, 160), None, in_memory, tmp_path)
    assert images.info.preprocessing == pretrained(NAME).crop.key


@pytest.mark.parametrize("pool", [None, "mean"])
def test_a_trained_head_takes_the_place_of_the_models_classifier(
    pool: str | None, server: Any, published: Any, tmp_path: Path, network: torch.nn.Module
) -> None:
    """Features are those of timm without classes; the file's logits are the head that its own features give."""
    from safetensors.torch import save

    server.files["/timm/test_vit.r160_in1k/resolve/main/model.safetensors"] = published(save(network.state_dict()))
    labels = [k % 2 for k in range(40)]
    pictures = make_pictures(40, 160).astype(int) + np.array([60, 0, -60]) * np.array(labels)[:, None, None, None]
    entries = ((f"{number}.png", picture) for number, picture in enumerate(pictures.clip(0, 255).astype(np.uint8)))
    packed = pack_arrays(entries, tmp_path / "train.set", crop=pretrained(NAME).crop, labels=labels)
    (tmp_path / "head.toml").write_text('head = "train.set"\n' + ("" if pool is None else f'pool = "{pool}"\n'))
    ran = bandlens(tmp_path, server.address, "export", "timm:test_vit", "--head", "head.toml", "--out", "models")
    assert ran.returncode == 0, ran.stderr
    model = load_model(tmp_path / "models", f"{NAME}+train")
    assert (model.category, model.classes, model.image_size) == ("own", 2, 160)
    assert model.head is not None
    network.reset_classifier(0, *(() if pool is None else ("avg",)))  # type: ignore[operator]
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in pretrained(NAME).normalization)

    def features(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output: NDArray[np.float32] = network((torch.from_numpy(images) - mean) / std).numpy()
        return output

    pixels = packed.take(np.arange(40)).astype(np.float32) / np.float32(255)
    head = fit_head(features(pixels), np.array(labels, np.int32), packed.clusters, "ridge", 0)
    assert head.strength == model.head.strength
    expected = head.head.logits(features(photograph_crops(160)))
    logits = onnx_logits(verify_model(model), photograph_crops(160))
    np.testing.assert_allclose(logits, expected, atol=5e-3 * np.abs(expected).max())


def test_a_pooling_that_a_model_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^test_resnet has no pooling by token \(.*\); leave out `pool`$"):
        pool_pretrained(timm.create_model("test_resnet", pretrained=False), "token", "test_resnet")


def test_without_the_hub_one_line_says_so(tmp_path: Path) -> None:
    ran = bandlens(tmp_path, "http://127.0.0.1:9", "export", f"timm:{NAME}", "--out", "models")
    assert ran.returncode == 1
    address = f"http://127.0.0.1:9/timm/{NAME}/resolve/main/model.safetensors"
    assert ran.stderr.splitlines()[-1].startswith(f"bandlens: cannot fetch {address}: ")
    assert "Retrying" not in ran.stderr, "huggingface_hub has asked again, for half a minute"
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "models").exists()
