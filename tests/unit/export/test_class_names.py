"""The names of classes, as they are listed in a file and as others write them beside weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import make_model

from bandlens.core.errors import ExportError, UsageError
from bandlens.export.class_names import class_names_of, find_class_names, name_classes, notes_of, read_class_names
from bandlens.export.model_files import load_model
from bandlens.export.weights.read import read_weights

NAMES = ["whale", "ant", "Bär"]
BY_NUMBER = dict(enumerate(NAMES))


def test_a_file_has_one_name_a_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeffwhale\r\nant \nBär\n\n", encoding="utf-8")
    assert read_class_names(file) == NAMES
    file.write_text("whale\n\nant\n")
    with pytest.raises(UsageError, match=r"names\.txt, line 2: the name of a class is missing"):
        read_class_names(file)
    file.write_text("whale\nant\nant\n")
    with pytest.raises(UsageError, match=r"several classes in .*names\.txt are called ant; give each its own name"):
        read_class_names(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"names\.txt: no list of classes"):
        read_class_names(file)
    with pytest.raises(UsageError, match="cannot read the names of classes"):
        read_class_names(tmp_path)


@pytest.mark.parametrize(
    "notes",
    [
        {"class_names": NAMES},
        {"class_to_idx": {name: number for number, name in reversed(BY_NUMBER.items())}},
        {"id2label": {str(number): name for number, name in BY_NUMBER.items()}},
        {"names": str(BY_NUMBER)},
        {"labels": "\n".join(NAMES)},
        {"classes": 3, "label_names": NAMES},
    ],
)
def test_names_are_read_however_they_are_written(notes: dict[str, Any]) -> None:
    assert find_class_names(notes, 3) == NAMES
    assert find_class_names(notes, 4) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(["LABEL_0", "LABEL_1", "LABEL_2"], id="placeholders"),
        pytest.param(["ant", "bee", None], id="a missing name"),
        pytest.param(torch.zeros(3), id="tensor"),
        pytest.param(3, id="number"),
        pytest.param({"ant": 0, "bee": 1, "crow": 3}, id="a missing number"),
        pytest.param({-1: "ant", 0: "bee", 1: "crow"}, id="a negative number"),
        pytest.param({"x": "ant", "y": "bee", "z": "crow"}, id="no numbers"),
        pytest.param({str(count): count * (2**61 - 1) for count in range(200_000)}, id="numbers of one hash"),
        pytest.param(",".join(NAMES) + " " * (1 << 22), id="a long text"),
    ],
)
def test_what_is_no_list_of_names_is_passed_over(value: Any) -> None:
    assert find_class_names({"class_names": value}, 3) is None


def test_names_lie_at_the_top_of_a_weights_file_or_in_hyperparameters(tmp_path: Path) -> None:
    weights = {"state_dict": {"fc.weight": torch.zeros(3, 2)}}
    for number, extra in enumerate(
        ({"classes": NAMES}, {"hyper_parameters": {"lr": 0.1, "class_names": NAMES}}, {"meta": {"CLASSES": NAMES}})
    ):
        torch.save(weights | extra, tmp_path / f"{number}.ckpt")
        content = read_weights([(tmp_path / f"{number}.ckpt", "own")])
        assert find_class_names(content.notes, 3) == NAMES
    assert notes_of([1]) == notes_of({"hyper_parameters": 3}) == {}


def test_names_lie_in_the_config_that_timm_writes_beside_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"fc.weight": torch.zeros(3, 2)}, file)
    for config, names in (
        ({"architecture": "resnet18", "num_classes": 3, "label_names": NAMES}, NAMES),
        ({"pretrained_cfg": {"label_names": NAMES}}, NAMES),
        ([], None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert find_class_names(read_weights([(file, "own")]).notes, 3) == names
    (tmp_path / "config.json").write_text("{")
    assert read_weights([(file, "own")]).notes == {}
    save_file({"fc.weight": torch.zeros(3, 2)}, file, {"class_names": json.dumps(NAMES)})
    (tmp_path / "config.json").write_text(json.dumps({"class_names": NAMES[::-1]}))
    assert find_class_names(read_weights([(file, "own")]).notes, 3) == NAMES, "what the file says itself comes first"


def test_a_model_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    model = make_model(tmp_path, classes=3)
    assert class_names_of(model) is None
    name_classes(model, NAMES)
    assert class_names_of(load_model(tmp_path, "one")) == NAMES
    with pytest.raises(UsageError, match="2 names were given for the 3 classes of one"):
        name_classes(model, NAMES[:2])
    with pytest.raises(UsageError, match="several classes of one are called ant; give each its own name"):
        name_classes(model, ["ant", "ant", "bee"])
    assert class_names_of(model) == NAMES
    description = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(description | {"class_names": [1, 2, 3]}))
    with pytest.raises(ExportError, match=r"one\.json is damaged: class_names are not 3 texts"):
        class_names_of(model)
