from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from small import make_model

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.core.records import Crop, Model
from bandlens.export import model_files
from bandlens.export.class_names import class_names_of, name_classes
from bandlens.export.model_files import (
    categorize_model,
    check_name,
    describe_onnx_file,
    load_model,
    load_onnx_file,
    model_names,
    read_onnx_file,
    save_model,
    save_onnx_file,
)


@pytest.mark.parametrize("name", ["my net (v2)", "epoch=3-val_loss=0.12", "x" * 200])
def test_names_that_can_name_a_file(name: str, tmp_path: Path) -> None:
    assert check_name(name) == name
    model = make_model(tmp_path, name)
    assert model_names(tmp_path) == [name]
    assert load_model(tmp_path, name) == model


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "-option", "a,b", "x" * 201])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a model; use letters, digits, spaces and"):
        check_name(name)


def test_the_crop_of_a_model_is_read_again(tmp_path: Path) -> None:
    model = replace(make_model(tmp_path, "mine"), crop=Crop(128, 144, interpolation="bicubic"))
    save_model(model, model.path.read_bytes(), {})
    assert load_model(tmp_path, "mine") == model


def test_a_category_and_names_of_classes_are_kept_side_by_side(tmp_path: Path) -> None:
    model = make_model(tmp_path, "my net (v2)", classes=3)
    name_classes(model, ["ant", "bee", "cat"])
    assert categorize_model(model, "my nets").category == "my nets"
    record = load_model(tmp_path, "my net (v2)")
    assert (record.category, class_names_of(record)) == ("my nets", ["ant", "bee", "cat"])
    with pytest.raises(UsageError, match="'a/b' cannot name a category"):
        categorize_model(record, "a/b")
    assert load_model(tmp_path, "my net (v2)") == record


def test_a_folder_that_may_only_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path / "models", "one", classes=2)
    (tmp_path / "models" / "fp16").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot write .*choose another folder"):
        save_onnx_file(model, "fp16", b"half", {})

    def refuse(path: Path, _content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(model_files, "write_bytes", refuse)
    line = r"^cannot write .*one\.json: Read-only file system; make its folder writable$"
    with pytest.raises(UsageError, match=line):
        name_classes(model, ["ant", "bee"])
    with pytest.raises(UsageError, match=line):
        categorize_model(model, "mine")
    assert load_model(tmp_path / "models", "one") == model
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UnknownName, match=r"^unknown model 'one'; the folder models has it, and was not named; export it"
    ):
        load_model(tmp_path / "home", "one")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "my models", "a.v1", size=64)


def test_each_precision_has_a_folder(model: Model) -> None:
    onnx_file = save_onnx_file(model, "fp16", b"half", {"versions": {"onnx": "1"}})
    assert load_onnx_file(model, "fp16") == onnx_file
    assert onnx_file.path == model.path.parent / "fp16" / "a.v1.onnx"
    assert (onnx_file.name, onnx_file.models) == ("a.v1", model.path.parent)
    assert read_onnx_file(onnx_file) == b"half"
    assert describe_onnx_file(model, "fp16") == {
        "precision": "fp16",
        "sha256": onnx_file.sha256,
        "bytes": 4,
        "made_from": model.sha256,
        "versions": {"onnx": "1"},
    }
    assert load_model(model.path.parent, "a.v1") == model
    with pytest.raises(UnknownName, match=r"unknown precision 'fp8'; did you mean fp32 or fp16\?"):
        load_onnx_file(model, "fp8")
    with pytest.raises(UsageError, match="bf16 is made of fp32 by a run, and has no file"):
        load_onnx_file(model, "bf16")
    with pytest.raises(UnknownName, match=r"unknown model 'm/a.onnx'; .*; a model goes by its name, such as a, and"):
        load_model(model.path.parent, "m/a.onnx")
    with pytest.raises(UnknownName, match=r"there is no folder .*/my model; did you mean my models\?; export it into"):
        load_model(model.path.parent.with_name("my model"), "a.v1")


@pytest.mark.parametrize(("precision", "options"), [("fp16", ""), ("int8", " --calibration IMAGE_SET")])
def test_what_is_missing_can_be_made(precision: str, options: str, model: Model) -> None:
    folder = model.path.parent
    with pytest.raises(ExportError) as error:
        load_onnx_file(model, precision)
    command = f"bandlens export a.v1 --precision {precision} --out '{folder}'{options}"
    assert str(error.value) == f"a.v1 has no {precision} file in {folder / precision}; run: {command}"


def test_what_is_damaged_is_refused(model: Model) -> None:
    onnx_file = save_onnx_file(model, "fp16", b"half", {})
    command = "run: bandlens export a.v1 --precision fp16"
    for content, words in ((b"hal", "not as long as"), (b"harf", "has sha256")):
        onnx_file.path.write_bytes(content)
        with pytest.raises(ExportError, match=f"{words}.*{command}"):
            read_onnx_file(load_onnx_file(model, "fp16"))
    onnx_file.path.unlink()
    with pytest.raises(ExportError, match=f"is missing.*{command}"):
        load_onnx_file(model, "fp16")
    with pytest.raises(ExportError, match=f"cannot read.*{command}"):
        read_onnx_file(onnx_file)
    for text in ("{", "[]", "{}", '{"made_from": "", "sha256": "", "bytes": "4"}'):
        (onnx_file.path.parent / "a.v1.json").write_text(text)
        with pytest.raises(ExportError, match=f"is damaged.*{command}"):
            load_onnx_file(model, "fp16")
    model.path.write_bytes(b"short")
    with pytest.raises(ExportError, match=r"not as long as .*a\.v1\.json says; export a\.v1 again"):
        load_model(model.path.parent, "a.v1")


def test_a_graph_of_another_export_is_refused(model: Model) -> None:
    save_onnx_file(model, "fp16", b"half", {})
    reexport = make_model(model.path.parent, "a.v1", size=64, seed=1)
    with pytest.raises(ExportError, match=r"was made from another export of a.v1; run: bandlens export a.v1"):
        load_onnx_file(reexport, "fp16")
