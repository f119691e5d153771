"""The command, the Python API and `look` make a model in one way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small import invoke, make_model

import bandlens
from bandlens.app.api.coerce import take_model
from bandlens.core.errors import UsageError
from bandlens.core.records import Model
from bandlens.export.export import ExportOptions, export
from bandlens.export.model_files import describe_model, load_model

NONE = {"mean": 0.0, "std": 1.0}


def test_command_api_and_look_make_the_same_model(tmp_path: Path) -> None:
    source = make_model(tmp_path / "sources", "mine", size=64).path
    source = source.rename(tmp_path / "mine.onnx")
    folders = [tmp_path / name for name in ("function", "command", "api", "look")]
    by_function = export(source, ExportOptions(folders[0], "mine", **NONE))
    result = invoke("export", source, "--normalization", "none", "--out", folders[1])
    assert result.exit_code == 0, result.output
    by_command = load_model(folders[1], "mine")
    by_api = bandlens.export_model(source, "mine", **NONE, out=folders[2])
    by_look = take_model(source, folders[3], normalization="none")

    def moved(model: Model) -> Model:
        return replace(model, path=Path())

    assert moved(by_function) == moved(by_command) == moved(by_api) == moved(by_look)
    assert len({str(describe_model(folder, "mine")) for folder in folders}) == 1


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Path("no.onnx"), {"name": "mine"}, "no file at no.onnx"),
        ("no.pth", {"name": "mine", "architecture": "resnet18"}, "no file at no.pth"),
        ("resnet50_swav", {"mean": 0.0}, "a checkpoint has its own name, mean and std"),
        ("resnet50_swav", {"multilabel": True}, "a published checkpoint has classes of its own"),
        ("timm:resnet18.a1_in1k", {"image_size": 64}, "takes images of its own size; leave out image_size"),
    ],
)
def test_options_that_fit_no_such_source_are_refused(
    tmp_path: Path, source: str | Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(source, replace(ExportOptions(tmp_path), **options))
    assert not list(tmp_path.iterdir())
