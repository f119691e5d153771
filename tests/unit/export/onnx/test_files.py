from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from small import make_model

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.core.records import Model
from bandlens.export.models import load_model, save_model, verify_model
from bandlens.export.onnx.files import OnnxFile, describe_onnx_file, load_onnx_file, read_onnx_file, save_onnx_file
from bandlens.export.onnx.precisions import Calibration, make_onnx_file


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "my models", "a.v1", size=64)


def test_fp32_is_the_models_own_file(model: Model) -> None:
    onnx_file = load_onnx_file(model, "fp32")
    assert onnx_file == OnnxFile("fp32", model.path, model.sha256, model.path.parent)
    assert (onnx_file.name, onnx_file.models) == ("a.v1", model.path.parent)
    assert read_onnx_file(onnx_file) == verify_model(model)


def test_each_precision_has_a_folder(model: Model) -> None:
    saved = save_onnx_file(model, "fp16", b"half", {"versions": {"onnx": "1"}})
    assert load_onnx_file(model, "fp16") == saved
    assert saved.path == model.path.parent / "fp16" / "a.v1.onnx"
    assert (saved.name, saved.models) == ("a.v1", model.path.parent)
    assert read_onnx_file(saved) == b"half"
    assert describe_onnx_file(model, "fp16") == {
        "precision": "fp16",
        "sha256": saved.sha256,
        "bytes": 4,
        "made_from": model.sha256,
        "versions": {"onnx": "1"},
    }
    assert load_model(model.path.parent, "a.v1") == model
    with pytest.raises(UnknownName, match=r"unknown precision 'fp8'; did you mean fp32 or fp16\?"):
        load_onnx_file(model, "fp8")


@pytest.mark.parametrize(("precision", "more"), [("fp16", ""), ("int8", " --calibration IMAGE_SET")])
def test_what_is_missing_can_be_made(precision: str, more: str, model: Model) -> None:
    folder = model.path.parent
    with pytest.raises(ExportError) as caught:
        load_onnx_file(model, precision)
    command = f"bandlens export a.v1 --precision {precision} --out '{folder}'{more}"
    assert str(caught.value) == f"a.v1 has no {precision} file in {folder / precision}; run: {command}"


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


def test_a_graph_of_another_export_is_refused(model: Model) -> None:
    save_onnx_file(model, "fp16", b"half", {})
    reexport = make_model(model.path.parent, "a.v1", size=64, seed=1)
    with pytest.raises(ExportError, match=r"was made from another export of a.v1; run: bandlens export a.v1"):
        load_onnx_file(reexport, "fp16")


def test_a_folder_that_cannot_be_written_is_named(model: Model) -> None:
    (model.path.parent / "fp16").write_text("in the way")
    with pytest.raises(ExportError, match=r"cannot write .*choose another folder"):
        save_onnx_file(model, "fp16", b"half", {})


def test_fp16_is_made_and_described(model: Model) -> None:
    onnx_file, parity = make_onnx_file(model, "fp16")
    assert load_onnx_file(model, "fp16") == onnx_file
    about = describe_onnx_file(model, "fp16")
    assert about["versions"] == {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    assert about["parity"]["images"] == parity.images == 18
    assert 0 < about["parity"]["relative_difference"] == parity.relative_difference < 5e-3
    assert "calibration" not in about


def test_wrong_wishes(model: Model, photographs: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match="give an image set to calibrate on"):
        make_onnx_file(model, "int8")
    with pytest.raises(UsageError, match="the model's own file"):
        make_onnx_file(model, "fp32")
    with pytest.raises(UnknownName, match="precision"):
        make_onnx_file(model, "int4")
    with pytest.raises(UsageError, match=r"must be \(n, \*\(3, 64, 64\)\) float32"):
        make_onnx_file(model, "int8", Calibration("small.set", "0", photographs[:, :, :32, :32]))
    assert sorted(path.name for path in model.path.parent.iterdir()) == ["a.v1.json", "a.v1.onnx"]


def test_a_file_that_overflows_is_refused(model: Model) -> None:
    """Its weights fit into float16; its sums do not."""
    large = onnx.load_from_string(verify_model(model))
    (kernel,) = (tensor for tensor in large.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(5e4), "kernel"))
    content = large.SerializeToString()
    overflowing = replace(
        model, name="large", path=model.path.with_name("large.onnx"), sha256=hashlib.sha256(content).hexdigest()
    )
    save_model(overflowing, content, {})
    with pytest.raises(ExportError, match=r"fp16 file of large overflows.*nothing was written"):
        make_onnx_file(overflowing, "fp16")
    assert not (model.path.parent / "fp16").exists()


def test_descriptions_are_strict_json(model: Model) -> None:
    onnx_file, _ = make_onnx_file(model, "fp16")
    text = (onnx_file.path.parent / "a.v1.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
