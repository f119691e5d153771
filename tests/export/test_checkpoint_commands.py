from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from bandlens.app.commands import checkpoints
from bandlens.app.commands.export import channels, export
from bandlens.errors import BandlensError, UsageError
from bandlens.export.models import load_model

app = typer.Typer()
app.add_typer(checkpoints.app)
app.command()(export)


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
    own = ("export", "--file", tiny, "--name", "mine", "--image-size", 64, "--out", tmp_path / "models")
    result = run(*own, "--architecture", "tried_tiny:Tiny", "--mean", "127/255", "--std", "0.5", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["name"], row["images"], row["top1_disagreements"]) == ("mine", 18, 0)
    assert Path(row["file"]).exists()
    assert "also needs --name and --architecture" in str(failure(run(*own)))
    assert "--normalization" in str(failure(run(*own, "--architecture", "resnet18")))
    assert "leave out NAME" in str(failure(run(*own, "tv_resnet50", "--architecture", "resnet18")))


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


def test_channels() -> None:
    assert channels("127/255", "0.5, 0.25,1", None) == ((127 / 255,) * 3, (0.5, 0.25, 1.0))
    assert channels(None, None, "none") == ((0.0,) * 3, (1.0,) * 3)
    for mean, std, normalization in (
        (None, None, None),
        ("0", None, None),
        ("0", "1", "none"),
        ("0,0", "1", None),
        ("a", "1", None),
        ("1/0", "1", None),
        ("0", "0", None),
        (None, None, "imagenets"),
    ):
        with pytest.raises(UsageError):
            channels(mean, std, normalization)


@pytest.mark.parametrize("command", ["list", "show", "fetch", "verify", None])
def test_every_help_has_an_example(command: str | None) -> None:
    words = ("export",) if command is None else ("checkpoints", command)
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "bandlens " + " ".join(words) in " ".join(result.stdout.split())
