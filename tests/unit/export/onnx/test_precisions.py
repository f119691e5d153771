from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from small import make_model, replace_content

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.core.records import Model
from bandlens.export.model_files import describe_onnx_file, load_onnx_file, verify_model
from bandlens.export.onnx.precisions import make_onnx_file


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return make_model(tmp_path / "my models", "a.v1", size=64)


def test_fp16_is_made_and_described(model: Model) -> None:
    onnx_file, parity = make_onnx_file(model, "fp16")
    assert load_onnx_file(model, "fp16") == onnx_file
    about = describe_onnx_file(model, "fp16")
    assert about["versions"] == {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    assert about["parity"]["images"] == parity.images == 12
    assert 0 < about["parity"]["relative_difference"] == parity.relative_difference < 5e-3
    assert "calibration" not in about


def test_wrong_wishes(model: Model, photographs: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match="give an image set to calibrate on"):
        make_onnx_file(model, "int8")
    with pytest.raises(UsageError, match="the model's own file"):
        make_onnx_file(model, "fp32")
    with pytest.raises(UnknownName, match="precision"):
        make_onnx_file(model, "int4")
    assert sorted(path.name for path in model.path.parent.iterdir()) == ["a.v1.json", "a.v1.onnx"]


def test_a_file_that_overflows_is_refused(model: Model) -> None:
    """Its weights fit into float16; its sums do not."""
    onnx_model = onnx.load_from_string(verify_model(model))
    (kernel,) = (tensor for tensor in onnx_model.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(5e4), "kernel"))
    overflowing = replace_content(model, onnx_model.SerializeToString())
    with pytest.raises(ExportError, match=r"fp16 file of a\.v1 overflows.*nothing was written"):
        make_onnx_file(overflowing, "fp16")
    assert not (model.path.parent / "fp16").exists()
