"""Folders of models of someone else's: what they say leads to no other file, and is a model or one line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from fuzzing import damaged, fuzz, json_values, refusal
from hypothesis import given
from hypothesis import strategies as st
from small import make_model

from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.model_files import load_model, load_onnx_file, model_names, save_model, save_onnx_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = make_model(folder)
    save_onnx_file(model, "int8", model.path.read_bytes(), {})
    return folder


@pytest.fixture(scope="module")
def about(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "one.json").read_text()))


def open_all(folder: Path) -> None:
    """Open every model as a study does."""
    for name in model_names(folder):
        model = load_model(folder, name)
        assert model.path == folder / f"{name}.onnx"
        load_onnx_file(model, "int8")


@fuzz(50)
@given(data=st.data())
def test_any_description_is_a_model_or_one_line(folder: Path, about: dict[str, Any], data: st.DataObject) -> None:
    changes = data.draw(st.dictionaries(st.sampled_from([*about, "odd"]), json_values, min_size=1, max_size=3))
    (folder / "one.json").write_text(json.dumps(about | changes))
    refusal(lambda: open_all(folder))


@fuzz(20)
@given(data=st.data())
@pytest.mark.parametrize("file", ["one.json", "int8/one.json"])
def test_damaged_descriptions_are_one_line(file: str, folder: Path, about: dict[str, Any], data: st.DataObject) -> None:
    (folder / "one.json").write_text(json.dumps(about))
    model = load_model(folder, "one")
    save_onnx_file(model, "int8", model.path.read_bytes(), {})
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(data.draw(damaged(content) | st.sampled_from([b"[" * 10**5, b"[]", b"1", b"null"])))
    refusal(lambda: open_all(folder))
    (folder / file).write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../outside"},
        {"path": "../outside.onnx"},
        {"classes": 10**9},
        {"image_size": True},
    ],
    ids=str,
)
def test_what_would_lead_out_of_the_folder_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    make_model(tmp_path / "models")
    (tmp_path / "outside.onnx").write_bytes(b"x")
    file = tmp_path / "models" / "one.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    message = str(refusal(lambda: load_model(tmp_path / "models", "one")))
    assert "export one again" in message


@pytest.mark.parametrize("name", ["../models/one", "..", "a\0", ""])
def test_names_are_no_paths(name: str, tmp_path: Path) -> None:
    make_model(tmp_path / "models")
    assert "unknown model" in str(refusal(lambda: load_model(tmp_path / "models", name)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("place", ["weights.bin", "{here}/weights.bin"])
def test_weights_in_other_files_are_not_looked_for(
    engine: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine)
    monkeypatch.chdir(tmp_path)  # the engines would look there
    model = make_model(tmp_path / "models")
    graph = onnx.load(model.path)
    (matrix,) = (tensor for tensor in graph.graph.initializer if tensor.name == "matrix")
    Path("weights.bin").write_bytes(matrix.raw_data)
    matrix.ClearField("raw_data")
    matrix.data_location = onnx.TensorProto.EXTERNAL
    matrix.external_data.add(key="location", value=place.format(here=tmp_path))
    content = graph.SerializeToString()
    save_model(replace(model, sha256=hashlib.sha256(content).hexdigest()), content, {})

    def open_model() -> None:
        with open_session(variant_of(load_model(tmp_path / "models", "one"), engine, "fp32"), 1, 1):
            pass

    assert "keeps weights in other files" in str(refusal(open_model))
