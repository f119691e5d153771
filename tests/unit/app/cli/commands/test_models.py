from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import failure, invoke, make_model
from torch import nn

import bandlens
from bandlens.app.cli.commands.export import read_normalization
from bandlens.core.errors import UsageError
from bandlens.export.class_names import class_names_of
from bandlens.export.model_files import load_model


def test_fetch_and_verify(home: Path) -> None:
    assert "Missing argument" in str(failure(invoke("checkpoints", "fetch")))
    with pytest.raises(UsageError, match="did you mean resnet50_dino"):
        bandlens.fetch_weights("resnet50_dinoo")
    missing = invoke("checkpoints", "list", "resnet50_swav", "--verify", "--format", "json")
    assert (failure(missing).exit_code, str(failure(missing))[:29]) == (1, "1 not verified: resnet50_swav")
    _, head = json.loads(missing.stdout)
    assert (head["file"], head["status"]) == (str(home / "weights" / "resnet50_swav.head.pth"), "not fetched")
    weights = home / "weights" / "resnet50_frozen_random.pth"
    weights.parent.mkdir(parents=True)
    torch.save({}, weights)
    assert invoke("checkpoints", "fetch", "resnet50_frozen_random").stdout.strip() == str(weights)
    (row,) = json.loads(invoke("checkpoints", "list", "resnet50_frozen_random", "--verify", "--format", "json").stdout)
    assert row["status"] == "ok"


def test_export_of_a_file(tiny: Path, tmp_path: Path) -> None:
    words = ("export", tiny, "--name", "mine", "--image-size", 64, "--out", tmp_path / "models")
    result = invoke(*words, "--architecture", "tried_tiny:Tiny", "--normalization", "127/255:0.5", "--format", "json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["name"], row["images"], row["top1_disagreements"]) == ("mine", 12, 0)
    assert Path(row["file"]).exists()
    usual = ("--architecture", "tried_tiny:Tiny", "--normalization", "none")
    again = invoke(*words, *usual)
    assert f"mine replaces the model of {load_model(tmp_path / 'models', 'mine').source.split()[0]}" in again.output
    result = invoke(*words, *usual, "--outputs", "logits")
    assert result.exit_code == 0
    assert "replaces" not in result.output, "the same model takes its own place"
    message = str(failure(invoke("export", "tv_resnet50", "--outputs", "logits", "--out", tmp_path / "models")))
    assert "--outputs is about weights and files of your own" in message
    missing = failure(invoke("export", tmp_path / "no.pth", *usual))
    assert (missing.exit_code, str(missing)) == (2, f"no file at {tmp_path / 'no.pth'}; check the path")
    assert "--architecture" in str(failure(invoke(*words)))
    assert "--normalization" in str(failure(invoke(*words, "--architecture", "resnet18")))


def test_names_are_of_the_48_or_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # files of the current folder are near names, too
    make_model(tmp_path / "models", "mine", size=64)
    message = str(failure(invoke("export", "mine2", "--out", tmp_path / "models")))
    assert "unknown checkpoint 'mine2'; did you mean mine?" in message
    assert "weights of your own are named by their file" in message


def test_a_normalization_is_a_name_or_means_and_deviations() -> None:
    assert read_normalization("127/255:0.5, 0.25,1") == ([127 / 255], [0.5, 0.25, 1.0])
    caffe = read_normalization("123.68/255, 116.78/255,103.94/255:58.395 / 255")
    assert caffe == ([123.68 / 255, 116.78 / 255, 103.94 / 255], [58.395 / 255])
    assert read_normalization("0.5:1e-1/2") == ([0.5], [0.05])
    assert read_normalization("none") == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    "text",
    ["0", "0,0:1", "1/0:1", "123.68:58.393/255", "123.68/255:58.393", "nan:1", "0:0", "imagenets"],
)
def test_what_is_no_normalization_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        bandlens.export_model(nn.ReLU(), "mine", **dict(zip(("mean", "std"), read_normalization(text), strict=True)))


def test_class_names_come_from_a_list_or_from_the_file_of_the_weights(tiny: Path, tmp_path: Path) -> None:
    names = [f"class of {number}" for number in range(10)]
    state = torch.load(tiny)
    double = {key: value * 2 if value.is_floating_point() else value for key, value in state["state_dict"].items()}
    average = {"state_dict_ema": double, "hyper_parameters": {"class_names": names}}
    torch.save(state | average, tmp_path / "mine.ckpt")
    words = ("export", tmp_path / "mine.ckpt", "--name", "mine", "--image-size", 64, "--out", tmp_path / "models")
    words = (*words, "--architecture", "tried_tiny:Tiny", "--normalization", "none")
    result = invoke(*words)
    assert "bandlens: mine: took the names of its classes from the file" in result.stderr
    [line] = [line for line in result.stderr.splitlines() if "state_dict_ema and left state_dict" in line]
    assert "moving average" in line
    description = tmp_path / "models" / "mine.json"
    weights_record = json.loads(description.read_text())["weights"]
    assert weights_record == {"taken": "state_dict_ema", "left": ["state_dict"], "ema": True}
    assert json.loads(description.read_text())["class_names"] == names
    (tmp_path / "names.txt").write_text("\n".join(names[::-1]) + "\n")
    result = invoke(*words, "--classes", tmp_path / "names.txt", "--weights", "raw")
    assert (result.exit_code, "state_dict and left state_dict_ema" in result.stderr) == (0, True)
    assert json.loads(description.read_text())["class_names"] == names[::-1]
    (tmp_path / "names.txt").write_text("\n".join(names[1:]))
    for out, words_of_error in (("new", "9 names were given for the 10 classes"), ("names.txt", "names.txt is a file")):
        with pytest.raises(UsageError, match=words_of_error):
            invoke(*words, "--classes", tmp_path / "names.txt", "--out", tmp_path / out, catch_exceptions=False)
    assert not (tmp_path / "new").exists()


def test_several_files_become_models_of_their_names_and_one_that_fails_stops_none(tiny: Path, tmp_path: Path) -> None:
    names = [f"class of {number}" for number in range(10)]
    state = torch.load(tiny)["state_dict"]
    save_file(state, tmp_path / "epoch=3.safetensors", {"class_names": json.dumps(names)})
    (tmp_path / "broken.pth").write_text("no weights")
    torch.save({"state_dict": state}, tmp_path / "my net (v2).pth.tar")
    files = [tmp_path / name for name in ("epoch=3.safetensors", "broken.pth", "my net (v2).pth.tar")]
    words = ("export", *files, "--architecture", "tried_tiny:Tiny", "--normalization", "none", "--image-size", 64)
    words = (*words, "--category", "my nets", "--out", tmp_path / "models", "--format", "json")
    result = invoke(*words)
    error = failure(result)
    assert (error.exit_code, str(error).split(";")[0]) == (1, "1 not exported: broken")
    assert "bandlens: broken: " in result.stderr
    assert [row["name"] for row in json.loads(result.stdout)] == ["epoch=3", "my net (v2)"]
    models = [load_model(tmp_path / "models", name) for name in ("epoch=3", "my net (v2)")]
    assert {model.category for model in models} == {"my nets"}
    assert [class_names_of(model) for model in models] == [names, None]


def test_names_of_several_files_are_their_own(tmp_path: Path) -> None:
    words = ("export", "--architecture", "resnet18", "--normalization", "none", "a/best.pth", "--out", tmp_path)
    assert "--name x is for one model, and 2 were given" in str(failure(invoke(*words, "b.pth", "--name", "x")))
    assert "a/best.pth and b/best.pt would both be called best" in str(failure(invoke(*words, "b/best.pt")))
    assert "'a/b' cannot name a category" in str(failure(invoke(*words, "--category", "a/b")))
