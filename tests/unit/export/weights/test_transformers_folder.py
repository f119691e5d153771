from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchvision.models import ResNet50_Weights

from bandlens.core.errors import CheckpointError, ExportError, UsageError
from bandlens.export.weights.transformers_folder import image_size_of, labels_of, load_classifier, read_preprocessing


def test_without_transformers_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    for act in (load_classifier, read_preprocessing):
        with pytest.raises(
            UsageError, match=r"needs transformers, which is not installed; run: pip install 'bandlens\[transformers\]'"
        ):
            act(tmp_path)


def test_a_folder_of_something_else_is_refused_before_transformers_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json; give a folder that save_pretrained"):
        load_classifier(tmp_path)
    with pytest.raises(UsageError, match=r"has no preprocessor_config\.json, .* say it with --normalization"):
        read_preprocessing(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(CheckpointError, match="holds no safetensors; save it again with save_pretrained"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", '{"num_labels": 100000000}', r"num_labels is 100,000,000, and 1,000,000 is the most"),
        (
            "config.json",
            '{"encoder": {"num_hidden_layers": 9999}}',
            r"num_hidden_layers is 9,999, and 1,000 is the most",
        ),
        ("config.json", '{"depths": [600, 600]}', r"depths is 1,200, and 1,000 is the most"),
        ("config.json", '{"image_size": 50000}', r"image_size is 50,000, and 4,096 is the most"),
        (
            "config.json",
            '{"vocab_size": 2000000, "seed": 1234567890, "max_pixels": 12845056}',
            r"vocab_size is 2,000,000, and 1,000,000 is the most",
        ),
        ("config.json", "[", r"config\.json cannot be read"),
        ("preprocessor_config.json", '{"size": {"height": 50000}}', r"height is 50,000, and 4,096 is the most"),
    ],
)
def test_numbers_that_no_classifier_has_are_refused_before_a_network_is_made(
    file: str, content: str, message: str, tmp_path: Path
) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / file).write_text(content)
    with pytest.raises(ExportError, match=message):
        (load_classifier if file == "config.json" else read_preprocessing)(tmp_path)


def test_sizes_of_images_are_the_configurations_if_they_are_square() -> None:
    sizes = {image_size_of(SimpleNamespace(**config)) for config in ({"image_size": 96}, {"image_size": [96, 96]})}
    assert sizes == {96}
    assert image_size_of(SimpleNamespace()) == 224
    with pytest.raises(ExportError, match="takes images of 224 x 192 pixels, and only square ones can be measured"):
        image_size_of(SimpleNamespace(image_size=[224, 192]))


def test_labels_are_the_configurations_unless_they_are_imagenets() -> None:
    assert labels_of(SimpleNamespace(id2label={0: "ant", 1: "bee"})) == {0: "ant", 1: "bee"}
    categories = ResNet50_Weights.DEFAULT.meta["categories"]
    synonyms = {number: f"{name}, and its Latin name" for number, name in enumerate(categories)}
    assert labels_of(SimpleNamespace(id2label=synonyms)) == {}
    elsewhere = dict(enumerate(reversed(synonyms.values())))
    assert labels_of(SimpleNamespace(id2label=elsewhere)) == elsewhere
    assert labels_of(SimpleNamespace(id2label={0: 0, 1: 1, 2: None})) == {}, "numbers are as good as none"
