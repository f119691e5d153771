from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from click.testing import Result
from safetensors.torch import save_file
from small import make_images, make_model, make_pictures
from torch import nn
from typer.testing import CliRunner

from bandlens.app.commands import checkpoints
from bandlens.app.commands.export import export, export_own, read_normalization
from bandlens.engine.device import devices, requirements
from bandlens.engine.device.devices import readiness
from bandlens.engine.device.driver import Gpu
from bandlens.errors import BandlensError, UsageError
from bandlens.export.models import load_model

app = typer.Typer()
app.add_typer(checkpoints.app)
app.command()(export)
app.command()(export_own)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failure(result: Result) -> BandlensError:
    assert isinstance(result.exception, BandlensError), result.output
    assert "\n" not in str(result.exception)
    return result.exception


def test_list() -> None:
    rows = json.loads(run("checkpoints", "list", "--json").stdout)
    assert len(rows) == 48
    assert rows[0] == {
        "name": "tv_resnet50",
        "category": "baseline",
        "published_top1": 76.146,
        "normalization": "imagenet",
        "licence": "bsd-3-clause",
        "source": "timm:timm/resnet50.tv_in1k",
    }
    table = run("checkpoints", "list", "--category", "stylized").stdout
    assert "resnet50_trained_on_SIN_and_IN_then_finetuned_on_IN" in table
    assert "tv_resnet50" not in table
    assert "did you mean stylized" in str(failure(run("checkpoints", "list", "--category", "styled")))


def test_show(home: Path) -> None:
    backbone, head = json.loads(run("checkpoints", "show", "resnet50_swav", "--json").stdout)
    assert (backbone["rule"], head["rule"]) == ("swav", "linear_head")
    assert head["file"] == str(home / "weights" / "resnet50_swav.head.pth")
    assert head["status"] == "not fetched"
    assert "aux_bn" in run("checkpoints", "show", "resnet50_tsbias_tbias").stdout


def test_fetch_and_verify(home: Path) -> None:
    assert failure(run("checkpoints", "fetch")).exit_code == 2
    missing = failure(run("checkpoints", "verify", "tv_resnet50"))
    assert missing.exit_code == 1
    assert "1 not verified: tv_resnet50" in str(missing)
    stored = home / "weights" / "resnet50_frozen_random.pth"
    stored.parent.mkdir(parents=True)
    torch.save({}, stored)
    assert run("checkpoints", "fetch", "resnet50_frozen_random").stdout.strip() == str(stored)
    (row,) = json.loads(run("checkpoints", "verify", "resnet50_frozen_random", "--json").stdout)
    assert row["status"] == "ok"


def test_export_of_a_file(tiny: Path, tmp_path: Path) -> None:
    own = ("export-own", tiny, "--name", "mine", "--image-size", 64, "--out", tmp_path / "models")
    result = run(*own, "--architecture", "tried_tiny:Tiny", "--mean", "127/255", "--std", "0.5", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["name"], row["images"], row["top1_disagreements"]) == ("mine", 18, 0)
    assert Path(row["file"]).exists()
    assert "--architecture" in str(failure(run(*own)))
    assert "--normalization" in str(failure(run(*own, "--architecture", "resnet18")))


def test_of_a_file_with_an_average_the_average_is_exported_and_one_line_says_so(tiny: Path, tmp_path: Path) -> None:
    state = torch.load(tiny)["state_dict"]
    double = {key: value * 2 if value.is_floating_point() else value for key, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": double}, tmp_path / "two.pth")
    only = {"average": double, "raw": state}
    for name, weights in only.items():
        torch.save(weights, tmp_path / f"{name}.pth")

    def exported(file: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
        words = (file, "--name", "mine", "--image-size", 64, "--out", tmp_path / "models", "--normalization", "none")
        result = run("export-own", *words, "--architecture", "tried_tiny:Tiny", *options, "--json")
        assert result.exit_code == 0, result.exception
        (row,) = json.loads(result.stdout)
        lines = [line for line in result.stderr.splitlines() if line.startswith("bandlens: mine: ")]
        return row, lines

    average, silent = exported(tmp_path / "average.pth")
    assert (average["weights"], average["weights_left"], silent) == ("top level", [], [])
    raw, _ = exported(tmp_path / "raw.pth")
    assert raw["sha256"] != average["sha256"]
    for options, same, taken, left in (
        ((), average, "state_dict_ema", "state_dict"),
        (("--weights", "ema"), average, "state_dict_ema", "state_dict"),
        (("--weights", "raw"), raw, "state_dict", "state_dict_ema"),
        (("--weights", "state_dict"), raw, "state_dict", "state_dict_ema"),
    ):
        row, lines = exported(tmp_path / "two.pth", *options)
        assert (row["sha256"], row["weights"], row["weights_left"]) == (same["sha256"], taken, [left])
        (line,) = lines
        assert f"{taken} and left {left}" in line
        assert ("moving average" in line) == (taken == "state_dict_ema")
        told = json.loads((tmp_path / "models" / "mine.json").read_text())["weights"]
        assert told == {"taken": taken, "left": [left], "ema": taken == "state_dict_ema"}


def test_export_goes_on_after_a_failure(resnet50: nn.Module, home: Path) -> None:
    weights = home / "weights"
    weights.mkdir(parents=True)
    save_file(resnet50.state_dict(), weights / "tv_resnet50.safetensors")
    (weights / "resnet50_frozen_random.pth").write_bytes(b"damaged")
    result = run("export", "resnet50_frozen_random", "tv_resnet50", "--image-size", 64, "--json")
    error = failure(result)
    assert (error.exit_code, str(error).split(";")[0]) == (1, "1 not exported: resnet50_frozen_random")
    assert "bandlens: resnet50_frozen_random: cannot read weights" in result.stderr
    assert [row["name"] for row in json.loads(result.stdout)] == ["tv_resnet50"]
    assert [path.name for path in (home / "models").glob("*.onnx")] == ["tv_resnet50.onnx"]
    model = load_model(None, "tv_resnet50")
    assert (model.category, model.architecture, model.source) == ("baseline", "resnet50", "timm:timm/resnet50.tv_in1k")
    (weights / "tv_resnet50.safetensors").unlink()
    (home / "models" / "tv_resnet50.onnx").unlink()


def test_precisions_of_a_model_that_is_exported(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    model = make_model(folder, "mine", size=64)
    images = make_images(tmp_path / "images.set", make_pictures(310, size=64))
    own = ("export", "mine", "--out", folder, "--json")
    assert "give a packed image set" in str(failure(run(*own, "--precision", "int8")))
    assert "unknown precision 'int9'" in str(failure(run(*own, "--precision", "fp16,int9")))
    made = run(*own, "--precision", "fp16,int8", "--precision", "fp32", "--calibration", images.folder)
    rows = {row["precision"]: row for row in json.loads(made.stdout)}
    assert list(rows) == ["fp16", "int8", "fp32"]
    assert {row["name"] for row in rows.values()} == {"mine"}
    assert rows["fp32"]["sha256"] == model.sha256[:16]
    assert (rows["fp16"]["images"], rows["int8"]["images"]) == (300, 300)
    assert rows["int8"]["top1_disagreements"] >= rows["fp16"]["top1_disagreements"]
    assert Path(rows["int8"]["file"]) == folder / "int8" / "mine.onnx"
    about = json.loads((folder / "int8" / "mine.json").read_text())
    assert about["calibration"] == {"name": "images.set", "digest": images.info.digest, "images": 300}
    (kept,) = json.loads(run(*own, "--precision", "int8").stdout)
    assert kept == rows["int8"]
    wrong = make_images(tmp_path / "wrong.set", make_pictures(2, size=128))
    message = str(failure(run(*own, "--precision", "int8", "--calibration", wrong.folder)))
    assert "has images of 128 pixels, and the model takes 64; pack it with --size 64" in message


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_each_of_them_advances_the_bar(tmp_path: Path, names: list[str]) -> None:
    bar: list[int] = []
    models = [make_model(tmp_path, name) for name in names]
    assert checkpoints.for_each(models, lambda model: model.name, lambda: bar.append(1)) == []
    assert len(bar) == len(names)


def test_names_are_of_the_48_or_in_the_folder(tmp_path: Path) -> None:
    make_model(tmp_path, "mine", size=64)
    message = str(failure(run("export", "mine2", "--out", tmp_path)))
    assert "unknown checkpoint 'mine2'; did you mean mine?" in message
    assert "`bandlens export-own` exports weights of your own" in message
    assert failure(run("export", "mine", "--all", "--out", tmp_path)).exit_code == 2


def test_one_of_the_48_is_exported_once(resnet50: nn.Module, home: Path) -> None:
    weights = home / "weights" / "tv_resnet50.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(resnet50.state_dict(), weights)
    fp16 = ("export", "tv_resnet50", "--image-size", 64, "--precision", "fp16", "--json")
    (row,) = json.loads(run(*fp16).stdout)
    assert row["precision"] == "fp16"
    weights.unlink()  # nothing is left to export from
    assert json.loads(run(*fp16).stdout) == [row]
    for path in (home / "models").rglob("*.onnx"):
        path.unlink()


def test_without_a_gpu_one_line_says_that_there_are_no_plans_if_they_were_asked_for(tmp_path: Path) -> None:
    if readiness("tensorrt").ready:
        pytest.skip("TensorRT is ready here")
    make_model(tmp_path, "mine", size=64)
    for options in ([], ["--refit"]):
        result = run("export", "mine", "--out", tmp_path, *options)
        assert result.exit_code == 0
        lines = [line for line in result.stderr.splitlines() if line.startswith("bandlens: ")]
        assert len(lines) == len(options)
        assert all(line.startswith("bandlens: no TensorRT plans are built here: ") for line in lines)
    assert not (tmp_path / "plans").exists()


def test_with_a_gpu_plans_are_built(rtx: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX in the place of TensorRT, and a GPU by name only: plans are built, not run."""
    gpu = Gpu("NVIDIA H100 80GB HBM3", 80 * 2**30, "9.0", "580.1")
    monkeypatch.setattr(devices, "readiness", lambda _: devices.Readiness(True, "tensorrt_rtx"))
    monkeypatch.setattr(devices, "gpus", lambda: (gpu,))
    monkeypatch.setattr(requirements, "load", lambda _: rtx)
    make_model(tmp_path, "mine", size=64)
    words = ("export", "mine", "--out", tmp_path, "--precision", "fp32,fp16", "--batch", 4, "--json")
    plans = [Path(row["trt_plan"]) for row in json.loads(run(*words).stdout)]
    assert [path.name.rpartition(".")[0].rpartition(".")[0] for path in plans] == ["mine.fp32.b4", "mine.fp16.b4"]
    assert all(path.stat().st_size > 0 for path in plans)
    assert "(9.0)" in json.loads(plans[0].with_suffix(".json").read_text())["gpu"]
    assert "an int8 file has scales of its own" in str(failure(run(*words, "--precision", "int8", "--refit")))


def test_normalizations_are_read() -> None:
    assert read_normalization("127/255", "0.5, 0.25,1", None) == ((127 / 255,) * 3, (0.5, 0.25, 1.0))
    caffe = read_normalization("123.68/255, 116.78/255,103.94/255", "58.395 / 255", None)
    assert caffe == ((123.68 / 255, 116.78 / 255, 103.94 / 255), (58.395 / 255,) * 3)
    assert read_normalization("0.5", "1e-1/2", None) == ((0.5,) * 3, (0.05,) * 3)
    assert read_normalization(None, None, "none") == ((0.0,) * 3, (1.0,) * 3)
    for mean, std, normalization in (
        (None, None, None),
        ("0", None, None),
        ("0", "1", "none"),
        ("0,0", "1", None),
        ("a", "1", None),
        ("1/0", "1", None),
        ("1/2/3", "1", None),
        ("123.68", "58.393/255", None),
        ("123.68/255", "58.393", None),
        ("-0.5", "0.5", None),
        ("1/", "1", None),
        ("nan", "1", None),
        ("0", "1e400", None),
        ("0", "0", None),
        (None, None, "imagenets"),
    ):
        with pytest.raises(UsageError):
            read_normalization(mean, std, normalization)


@pytest.mark.parametrize("command", ["list", "show", "fetch", "verify", None])
def test_every_help_has_an_example(command: str | None) -> None:
    words = ("export",) if command is None else ("checkpoints", command)
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "bandlens " + " ".join(words) in " ".join(result.stdout.split())
